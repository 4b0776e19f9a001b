"""What of a model cannot run, all of it: for ``check``, which names every such layer and not only the first.

Where something can stand in for a layer, importers ``refuse`` it and go on. That raises the error, unless it happens within
``collecting``, as with ``warnings.catch_warnings``: the error is then kept, and what follows is looked at too.
"""

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from litediffusion.sw.graph_builder import UnsupportedLayer


@dataclass(frozen=True)
class Problem:
    """A layer or an option that cannot run. path : torch path, "" is the top of the model; remedy : what to do, "" if the reason says it."""
    path: str
    operator: str
    reason: str
    remedy: str = ""


@dataclass
class Problems:
    """found : Problems in the order of the network; unseen : {path: why it was not looked at}; each once."""
    found: list = field(default_factory=list)
    unseen: dict = field(default_factory=dict)

    def __bool__(self):
        return bool(self.found or self.unseen)

    def add(self, problem):
        if problem not in self.found:
            self.found.append(problem)

    def note(self, error, path="", operator="", remedy=""):
        """Keep an error; path, operator, remedy : of an error that does not say them itself."""
        self.add(Problem(getattr(error, "path", path), getattr(error, "what", operator), getattr(error, "reason", str(error)),
                         getattr(error, "remedy", remedy)))


_active = ContextVar("problems", default=None)


@contextmanager
def collecting():
    """Problems of what is refused inside."""
    problems = Problems()
    token = _active.set(problems)
    try:
        yield problems
    finally:
        _active.reset(token)


def any_problems():
    """True if something was refused before and the import goes on without it: what follows may not fit then."""
    return bool(_active.get())


def refuse(error, path="", operator="", remedy=""):
    """Raise an error, or keep it; the caller goes on with a stand-in. path, operator, remedy : see Problems.note."""
    problems = _active.get()
    if problems is None:
        raise error
    problems.note(error, path, operator, remedy)


def refuse_failing(check, *args):
    """Refuse what ``check(*args)`` raises."""
    try:
        check(*args)
    except ValueError as error:
        refuse(error)


def not_looked_at(error, path):
    """The same for a part that an earlier problem keeps from being looked at."""
    problems = _active.get()
    if problems is None:
        raise error
    problems.unseen.setdefault(path, str(error))


def refuse_or_skip(error, path, operator="", remedy=""):
    """Refuse an error, unless it may come of something that stands in for what was refused before (weights that do not fit): not looked at then."""
    if any_problems() and not isinstance(error, UnsupportedLayer):
        not_looked_at(error, path)
    else:
        refuse(error, path, operator, remedy)
