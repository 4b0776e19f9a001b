"""What can go wrong between host and device. Every message says what happened, where, and what to do."""


class DeviceError(RuntimeError):
    """Any failure of a device; the classes below say which."""


class ConnectionLost(DeviceError):
    """The device cannot be reached, or stopped answering within the time-out. Nothing is known of a job under way."""


class DeviceBusy(DeviceError):
    """Another host owns the device. Try again later; an owner that vanished loses it when its lease lapses."""


class DeviceFault(DeviceError):
    """The device answered that it could not do the job: a rejected job, an engine error, a watchdog.

    ``code`` is the number that it reported, ``name`` its name, ``info`` the words that go with it.
    """

    def __init__(self, message, code=0, name="", info=()):
        super().__init__(message)
        self.code, self.name, self.info = code, name, tuple(info)


class AddressError(DeviceError):
    """An access outside the device's memory map, or a register that it does not have."""


class WrongDevice(DeviceError):
    """The device runs other firmware or another engine configuration than the program was made for."""
