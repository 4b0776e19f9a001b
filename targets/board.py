"""The skeleton of a board's target: LiteX's options, firmware in the ROM, the tools, the report.

A target is a SoC class with a platform; ``run_target(SoC)`` is its main program.
"""

from dataclasses import replace
import os
from pathlib import Path

from litex.soc.integration.soc_core import get_mem_data

from litediffusion.cores.config import PRESETS
from litediffusion.soc.diffusion_soc import DiffusionSoC
from litediffusion.soc.software import SoCBuilder, build_firmware
from litediffusion.targets import ecp5_tools, report
from litediffusion.targets.analyzer import CSV as ANALYZER_CSV
from litediffusion.targets.analyzer import add_analyzer
from litediffusion.targets.floorplan import place_array

# Once the array's multipliers have their places, this placer leaves fewer long paths than the static one.
PLACE_AND_ROUTE = "--placer heap --router router2 --detailed-timing-report"
PARALLEL = "--parallel-refine"      # better results, a little different each time; yowasp's build does not have it

# LiteX's options for a SoC that a board leaves open. DiffusionSoC fixes the others: they are refused when given.
SOC_OPTIONS = ("uart_name", "uart_baudrate", "uart_fifo_depth", "with_jtagbone", "jtagbone_chain")


class BoardSoC(DiffusionSoC):
    """DiffusionSoC of a board. Subclasses set the attributes and take ``OPTIONS`` as keyword arguments.

    NAME, DESCRIPTION  the target's name and one line for --help
    PLATFORM           litex-boards' Platform class
    SYS_CLK_FREQ       default clock
    OPTIONS            {argument of the class: (default, choices, help)}, on the command line with dashes
    UART               defaults of SOC_OPTIONS
    PRESET             default engine configuration
    SEED               nextpnr's seed, of a run that met the clock
    LANES              places of the array's lanes, other than the device's floorplan has them (targets/floorplan.py)
    ENGINE             what the board changes in the preset; programs must not notice (EngineConfig.hash)

    with_analyzer      LiteScope on the engine's queues (targets/analyzer.py)
    """

    NAME = DESCRIPTION = PLATFORM = SYS_CLK_FREQ = None
    OPTIONS = {}
    UART = {}
    PRESET = "ecpix5"
    SEED = 1
    LANES = ()
    ENGINE = {}

    def __init__(self, platform, sys_clk_freq, uart_name="serial", with_analyzer=False, **kwargs):
        DiffusionSoC.__init__(self, platform, sys_clk_freq, uart_name=uart_name, **kwargs)
        if with_analyzer:
            add_analyzer(self)
        if uart_name.startswith("crossover"):
            # Nobody need read this console: without the flush the firmware would wait for a reader while it boots.
            self.uart.add_auto_tx_flush(sys_clk_freq)

    def add_engine(self, config):
        """The engine, its array's multipliers in places of their own where the device's are known."""
        DiffusionSoC.add_engine(self, config)
        if config.primitives == "ecp5":
            place_array(self.engine.core.gemm.array, self.platform.device, self.LANES)


class BoardBuilder(SoCBuilder):
    """SoCBuilder that compiles the firmware between LiteX's libraries and the gateware, and puts it into the ROM."""

    def _generate_rom_software(self, compile_bios=True):
        SoCBuilder._generate_rom_software(self, compile_bios)
        if self.compile_software:
            firmware = build_firmware(self.output_dir, self.soc.engine_config.name, self.soc.window_size)
            self.soc.init_rom("rom", get_mem_data(str(firmware), data_width=32, endianness="little"))

    def build(self, **kwargs):
        """As SoCBuilder; an analyzer's list of signals goes to the output folder."""
        if hasattr(self.soc, "analyzer"):
            self.soc.analyzer.csr_csv = str(Path(self.output_dir) / ANALYZER_CSV)
        return SoCBuilder.build(self, **kwargs)


def make_parser(soc_class):
    """LiteX's parser with the target's options and defaults."""
    from litex.build.parser import LiteXArgumentParser      # imports in a circle with litex.soc when it comes first

    parser = LiteXArgumentParser(platform=soc_class.PLATFORM)
    parser.description = soc_class.DESCRIPTION
    parser.add_target_argument("--flash", action="store_true", help="Write the bitstream to the board's flash.")
    parser.add_target_argument("--sys-clk-freq", default=soc_class.SYS_CLK_FREQ, type=float,
                               help="System clock frequency.")
    parser.add_target_argument("--preset", default=soc_class.PRESET, choices=sorted(PRESETS), help="Engine configuration.")
    parser.add_target_argument("--with-trace", action="store_true", help="The unit that 'litediffusion profile' needs; ECP5 boards leave it out.")
    parser.add_target_argument("--with-analyzer", action="store_true", help="LiteScope on the engine's queues.")
    for name, (default, choices, text) in soc_class.OPTIONS.items():
        parser.add_target_argument(f"--{name.replace('_', '-')}", default=default, choices=choices, help=text)
    parser.set_defaults(output_dir=f"build/{soc_class.NAME}", nextpnr_seed=soc_class.SEED, **soc_class.UART)
    return parser


def soc_arguments(parser, args):
    """The SoC's arguments among LiteX's options; ends the program on one that DiffusionSoC fixes."""
    group = next(g for g in parser._action_groups if g.title == "SoC options")
    for action in group._group_actions:
        if action.dest not in SOC_OPTIONS and getattr(args, action.dest) != action.default:
            parser.error(f"{action.option_strings[0]}: DiffusionSoC fixes this; leave it out")
    return {name: getattr(args, name) for name in SOC_OPTIONS}


def engine_config(soc_class, preset, with_trace=False):
    """The preset as the board builds it."""
    config = replace(PRESETS[preset], **soc_class.ENGINE)
    return replace(config, trace=True) if with_trace else config


def build(soc, builder, options):
    """Software and gateware; after place and route also the report. Returns its path, or None."""
    open_flow = builder.compile_gateware and hasattr(soc.platform.toolchain, "_pnr_opts")
    output_dir = Path(builder.output_dir)
    if not open_flow:
        builder.build(**options)
        return None
    path, tools = os.environ["PATH"], ecp5_tools.Tools(output_dir)
    refinement = f"{PARALLEL} " if tools.knows("nextpnr-ecp5", PARALLEL) else ""
    soc.platform.toolchain._pnr_opts += f"{PLACE_AND_ROUTE} {refinement}--report {report.NEXTPNR_REPORT} "
    os.environ["PATH"] = tools.path(path)
    print(f"synthesis, place and route take ten minutes or more; their log is {output_dir / 'build.log'}", flush=True)
    try:
        builder.build(**options)
    finally:
        os.environ["PATH"] = path
    return report.write(output_dir, soc, tools.versions())


def run_target(soc_class, argv=None):
    """The main program of a target."""
    parser = make_parser(soc_class)
    args = parser.parse_args(argv)
    options = {name: getattr(args, name) for name in soc_class.OPTIONS}
    try:
        config = engine_config(soc_class, args.preset, args.with_trace)
    except ValueError as error:
        parser.error(f"--preset {args.preset}: {error}")
    soc = soc_class(sys_clk_freq=args.sys_clk_freq, config=config, toolchain=args.toolchain, with_analyzer=args.with_analyzer,
                    **options, **soc_arguments(parser, args))
    builder = BoardBuilder(soc, **parser.builder_argdict)
    if args.build:
        made = build(soc, builder, parser.toolchain_argdict)
        if made is not None:
            print(report.row_text(made))
    if args.load:
        soc.platform.create_programmer().load_bitstream(builder.get_bitstream_filename(mode="sram"))
    if args.flash:
        soc.platform.create_programmer().flash(0, builder.get_bitstream_filename(mode="flash"))
