"""The command line: ``litediffusion COMMAND``. Each command lives in its own file; this one collects them."""

import typer

from litediffusion.sw.cli import bench, build, check, demo, generate, inspect_program, network, profile, quality, report, selftest

app = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False, add_completion=False, help="""
Diffusion models on an FPGA engine.

A torch U-Net is compiled to a .ldp file, which runs on a device: `model` (numpy, the definition of the hardware), `rtl`
(the engine alone in Verilator) or `litex://HOST:PORT` (a SoC, simulated or on a board, behind litex_server). The same
seed gives the same picture, byte for byte, on all of them.

Start with: litediffusion compile digits -o digits.ldp; litediffusion generate digits.ldp 3 1 4 --device model
""")

for module in (check, build, generate, profile, inspect_program, selftest, bench, network, demo, quality, report):
    module.register(app)

if __name__ == "__main__":
    app()
