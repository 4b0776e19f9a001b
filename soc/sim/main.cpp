// Runs the simulated SoC: clock, console on stdin and stdout, Etherbone and bulk transfer on UDP sockets.
// Arguments: UDP port of Etherbone, the bulk transfer's is the next (0: any free ones), process whose end ends the simulation
// (0: none), the SD card's image, the panel's socket; the last two may be empty or left out.
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <stdexcept>
#include <string>

#include "Vsim.h"
#include "panel.h"
#include "sd_card.h"
#include "udp_bridge.h"
#include "verilated.h"

static const int POLL_CYCLES = 512;      // between two looks at socket and console: 0.5 ms
// The network's clock rests this long after the last sign of life; a frame passes every FIFO in less.
static const int NETWORK_CYCLES = 2048;
static const uint32_t DEVICE_IP = 0xC0A80132;          // as in soc/diffusion_soc.py
static const uint64_t DEVICE_MAC = 0x10E2D5000000ull;
static const uint16_t DEVICE_PORT = 1234, BULK_PORT = 1235;   // as in soc/bulk_protocol.py

static volatile sig_atomic_t stop;

static void on_signal(int)
{
	stop = 1;
}

// One 32-bit word a cycle between frames and the PHY's streams.
class EthernetPort {
public:
	EthernetPort(Vsim &sim, UdpBridge &bridge) : sim_(sim), bridge_(bridge) { sim_.eth_source_ready = 1; }

	bool sending() const { return sim_.eth_sink_valid; }

	// True while a frame is about, in either direction, or a bus access.
	bool busy() const
	{
		return sim_.eth_sink_valid || sim_.eth_source_valid || sim_.net_busy || bridge_.has_frame();
	}

	// Before the clock edge: `accepted` is the PHY's ready that the edge sees.
	void receive()
	{
		for (int i = 0; i < 4; i++)
			if (!sim_.eth_source_last || i <= last_byte(sim_.eth_source_last_be))
				received_.push_back(sim_.eth_source_data >> (8 * i));
		if (sim_.eth_source_last) {
			bridge_.from_device(received_);
			received_.clear();
		}
	}

	// After the clock edge: the next word, or nothing.
	void send()
	{
		if (at_ >= frame_.size()) {
			sim_.eth_sink_valid = bridge_.has_frame();
			if (!sim_.eth_sink_valid)
				return;
			frame_ = bridge_.next_frame();
			at_ = 0;
		}
		uint32_t word = 0;
		size_t bytes = frame_.size() - at_ < 4 ? frame_.size() - at_ : 4;
		memcpy(&word, &frame_[at_], bytes);
		at_ += 4;
		sim_.eth_sink_data = word;
		sim_.eth_sink_last = at_ >= frame_.size();
		sim_.eth_sink_last_be = sim_.eth_sink_last ? 1 << (bytes - 1) : 0;
	}

private:
	static int last_byte(uint32_t one_hot)
	{
		return one_hot ? __builtin_ctz(one_hot) : 3;
	}

	Vsim &sim_;
	UdpBridge &bridge_;
	std::vector<uint8_t> frame_, received_;
	size_t at_ = 0;
};

static void poll_console(Vsim &sim, bool &open)
{
	pollfd input = {STDIN_FILENO, POLLIN, 0};
	uint8_t byte;
	if (!open || sim.serial_sink_valid || poll(&input, 1, 0) <= 0)
		return;
	open = read(STDIN_FILENO, &byte, 1) == 1;
	sim.serial_sink_valid = open;
	sim.serial_sink_data = byte;
}

// Until a signal comes or the process `parent` (0: none) is no longer the parent.
static void run(Vsim &sim, UdpBridge &bridge, SdCard &card, Panel &panel, pid_t parent, uint64_t &cycles)
{
	EthernetPort ethernet(sim, bridge);
	bool console_open = true;
	int network = NETWORK_CYCLES;        // cycles until its clock rests
	sim.serial_source_ready = 1;
	sim.sys_clk = sim.net_clk = sim.video_clk = 0;
	sim.spisdcard_miso = 1;
	sim.eval();
	while (!stop && !Verilated::gotFinish() && (!parent || getppid() == parent)) {
		bridge.poll();
		poll_console(sim, console_open);
		panel.poll();
		sim.keys = panel.keys();
		for (int i = 0; i < POLL_CYCLES; i++) {
			if (sim.serial_source_valid)
				putchar(sim.serial_source_data);
			if (ethernet.busy())
				network = NETWORK_CYCLES;
			if (sim.eth_source_valid)
				ethernet.receive();
			bool idle = !ethernet.sending(), accepted = sim.eth_sink_ready, typed = sim.serial_sink_ready;
			sim.sys_clk = 1;
			sim.net_clk = network > 0;
			bool shown = panel.wants_frame();
			sim.video_clk = shown;
			sim.eval();
			sim.sys_clk = sim.net_clk = sim.video_clk = 0;
			sim.eval();
			sim.spisdcard_miso = card.step(sim.spisdcard_clk, sim.spisdcard_cs_n, sim.spisdcard_mosi);
			if (shown)
				panel.pixel(sim.video_de, sim.video_vsync, sim.video_r, sim.video_g, sim.video_b);
			network -= network > 0;
			if (idle ? bridge.has_frame() : accepted)
				ethernet.send();
			if (typed)
				sim.serial_sink_valid = 0;
		}
		cycles += POLL_CYCLES;
		fflush(stdout);
	}
}

static double now(clockid_t clock)
{
	timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
	uint16_t port = argc > 1 ? atoi(argv[1]) : DEVICE_PORT;
	pid_t parent = argc > 2 ? atoi(argv[2]) : 0;
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	try {
		SdCard card(argc > 3 ? argv[3] : "");
		Panel panel(argc > 4 ? argv[4] : "");
		UdpBridge bridge(port, DEVICE_IP, DEVICE_MAC, {DEVICE_PORT, BULK_PORT});
		fprintf(stderr, "bulk transfer on udp 127.0.0.1:%d\n", bridge.port(1));
		fprintf(stderr, "etherbone on udp 127.0.0.1:%d\n", bridge.port(0));
		Vsim sim;
		uint64_t cycles = 0;
		double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
		run(sim, bridge, card, panel, parent, cycles);
		wall = now(CLOCK_MONOTONIC) - wall;
		cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
		fprintf(stderr, "%llu cycles, %.3f MHz (%.3f MHz of CPU time)\n", (unsigned long long)cycles,
		        cycles / wall * 1e-6, cycles / cpu * 1e-6);
	} catch (const std::runtime_error &error) {
		fprintf(stderr, "%s\n", error.what());
		return 1;
	}
	return 0;
}
