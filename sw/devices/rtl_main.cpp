/*
 * The engine alone in Verilator, with a model of the DRAM behind its three native ports, as a library for ctypes.
 *
 * The DRAM model keeps what matters for the engine's speed of LiteDRAM on the ECPIX-5 (DDR3, 16 bit, half rate): one
 * 128-bit word every two cycles (or as sim_set_burst says) shared by the ports, latency, refresh, row misses,
 * read/write turnaround in batches, and eight commands of look-ahead a port. Commands to the same address keep the
 * order in which they were accepted. With a seed, commands, service and data are held back at random as well.
 */
#include <cstdint>
#include <cstring>

#include "Vengine_sim.h"
#include "engine_regs.h"
#include "verilated.h"

namespace {

constexpr int PORTS = 3, STORE = 2, DEPTH = 8, RING = 64;
constexpr int WORD = 16;
constexpr uint64_t WRITE_LATENCY = 4;   /* service to data */
constexpr uint64_t READ_LATENCY = 20;   /* data in the model to data at the port */
constexpr uint64_t TURNAROUND = 10, ROW_MISS = 10, REFRESH_PERIOD = 586, REFRESH_CYCLES = 24;
constexpr int READ_BATCH = 32, WRITE_BATCH = 16;
constexpr uint32_t ROW_SHIFT = 7, BANKS = 8;   /* words a row; rows of consecutive addresses lie in consecutive banks */

struct Command { uint32_t adr; uint64_t seq; };
struct Access { uint32_t adr; int port; uint64_t time; };
struct Data { uint64_t time; uint8_t bytes[WORD]; };

template <typename T, int N> struct Ring {
	T items[N];
	unsigned head = 0, count = 0;
	T &at(unsigned i) { return items[(head + i) % N]; }
	void push(const T &item) { items[(head + count++) % N] = item; }
	void pop() { head = (head + 1) % N; count--; }
	void erase(unsigned i) { for (; i; i--) at(i) = at(i - 1); pop(); }
};

struct Sim {
	VerilatedContext context;
	Vengine_sim top{&context};
	uint8_t *memory;
	uint64_t bytes;
	uint32_t random_state;      /* 0: no random stalls */
	uint32_t stall;             /* probability of a stall, of 256 */
	uint64_t burst = 2;         /* cycles a word */
	bool dead = false;          /* no command is served any more */
	uint64_t errors = 0;        /* breaches of the port's protocol, accesses outside the memory */
	uint64_t time = 0, seq = 0, next = 0, refresh = REFRESH_PERIOD;
	bool writing = false;
	int batch = 0;
	uint32_t open_row[BANKS];
	Ring<Command, DEPTH> commands[PORTS];
	Ring<Access, RING> accesses;
	Ring<Data, RING> data[2];

	Sim(uint8_t *m, uint64_t n, uint32_t seed, uint32_t s) : memory(m), bytes(n), random_state(seed), stall(s)
	{
		memset(open_row, 0xff, sizeof(open_row));
		top.sys_rst = 1;
		for (int i = 0; i < 4; i++)
			clock();
		top.sys_rst = 0;
		clock();                /* the core's reset is a cycle behind */
	}

	bool hold()
	{
		if (!stall)
			return false;
		random_state ^= random_state << 13;
		random_state ^= random_state >> 17;
		random_state ^= random_state << 5;
		return (random_state & 255) < stall;
	}

#ifdef ENGINE_SYS2X
	/* The domain of twice the frequency: its second edge of a cycle falls on that of the system clock. */
	void settle() { edge(1, 0); edge(0, 0); }
	void rise() { edge(1, 1); edge(0, 1); }
	void edge(int fast, int slow)
	{
		top.sys2x_clk = fast;
		top.sys_clk = slow;
		top.eval();
	}
#else
	void settle()
	{
		top.sys_clk = 0;
		top.eval();
	}
	void rise()
	{
		top.sys_clk = 1;
		top.eval();
	}
#endif

	void clock()
	{
		settle();
		rise();
		time++;
	}

	uint8_t *place(uint32_t adr)
	{
		static uint8_t nowhere[WORD];
		if ((uint64_t)adr * WORD + WORD <= bytes)
			return memory + (uint64_t)adr * WORD;
		errors++;
		return nowhere;
	}

	/* The command to serve next: of the batch's direction while it lasts, the oldest first; -1: none. */
	int choose(bool *turn)
	{
		int best[2] = {-1, -1};
		for (int p = 0; p < PORTS; p++)
			if (commands[p].count) {
				int &b = best[p == STORE];
				if (b < 0 || commands[p].at(0).seq < commands[b].at(0).seq)
					b = p;
			}
		bool change = best[writing] < 0 || (best[!writing] >= 0 && batch >= (writing ? WRITE_BATCH : READ_BATCH));
		int port = best[change ? !writing : writing];
		if (port < 0)
			return -1;
		/* An older command of the other direction to the same address goes first, and so all before it. */
		for (int p = 0; p < PORTS; p++)
			if ((p == STORE) != (port == STORE))
				for (unsigned i = 0; i < commands[p].count; i++)
					if (commands[p].at(i).adr == commands[port].at(0).adr && commands[p].at(i).seq < commands[port].at(0).seq) {
						*turn = (p == STORE) != writing;
						return p;
					}
		*turn = change;
		return port;
	}

	void serve()
	{
		if (time < next || dead || accesses.count == RING || hold())
			return;
		if (time >= refresh) {
			refresh += REFRESH_PERIOD;
			next = time + REFRESH_CYCLES;
			memset(open_row, 0xff, sizeof(open_row));
			return;
		}
		bool turn = false;
		int port = choose(&turn);
		if (port < 0 || (port != STORE && data[port].count + accesses.count >= RING - 2))
			return;
		uint32_t adr = commands[port].at(0).adr, row = adr >> ROW_SHIFT, bank = row % BANKS;
		uint64_t wait = (turn ? TURNAROUND : 0) + (open_row[bank] != row ? ROW_MISS : 0);
		open_row[bank] = row;
		batch = turn ? 1 : batch + 1;
		writing = port == STORE;
		commands[port].pop();
		accesses.push({adr, port, time + wait + WRITE_LATENCY});
		next = time + wait + burst;
	}

	void cycle()
	{
		serve();
		bool ready[PORTS];
		for (int p = 0; p < PORTS; p++)
			ready[p] = commands[p].count < DEPTH && !hold();
		top.fetch_cmd_ready = ready[0];
		top.load_cmd_ready = ready[1];
		top.store_cmd_ready = ready[2];
		bool write = accesses.count && accesses.at(0).time <= time && accesses.at(0).port == STORE;
		top.store_wdata_ready = write;
		bool read[2];
		for (int p = 0; p < 2; p++)
			read[p] = data[p].count && data[p].at(0).time <= time && !hold();
		top.fetch_rdata_valid = read[0];
		top.load_rdata_valid = read[1];
		if (read[0])
			memcpy(&top.fetch_rdata, data[0].at(0).bytes, WORD);
		if (read[1])
			memcpy(&top.load_rdata, data[1].at(0).bytes, WORD);
		settle();
		/* What crosses the ports in this cycle. */
		if (top.fetch_cmd_valid && ready[0])
			commands[0].push({top.fetch_cmd_addr, seq++});
		if (top.load_cmd_valid && ready[1])
			commands[1].push({top.load_cmd_addr, seq++});
		if (top.store_cmd_valid && ready[2])
			commands[2].push({top.store_cmd_addr, seq++});
		for (int p = 0; p < 2; p++)
			if (read[p]) {
				errors += !(p ? top.load_rdata_ready : top.fetch_rdata_ready);
				data[p].pop();
			}
		if (accesses.count && accesses.at(0).time <= time) {
			Access a = accesses.at(0);
			accesses.pop();
			if (a.port == STORE) {
				errors += !top.store_wdata_valid;
				memcpy(place(a.adr), &top.store_wdata, WORD);
			} else {
				Data d;
				d.time = time + READ_LATENCY;
				memcpy(d.bytes, place(a.adr), WORD);
				data[a.port].push(d);
			}
		}
		rise();
		time++;
		top.reg_start = 0;
		top.reg_reset = 0;
	}

	/* A register that the engine shows one at a time, between two clock edges. */
	uint32_t view(int place)
	{
		top.view_select = place;
		top.viewing = 1;
		top.eval();
		uint32_t value = top.view;
		top.viewing = 0;
		top.eval();
		return value;
	}
};

} // namespace

extern "C" {

void *sim_new(uint8_t *memory, uint64_t bytes, uint32_t seed, uint32_t stall)
{
	return new Sim(memory, bytes, seed ? seed : 1, stall);
}

void sim_free(void *sim) { delete static_cast<Sim *>(sim); }

/* Registers by their number in regs.REGS. A start or reset lasts for the next cycle. */
void sim_set(void *sim, int reg, uint32_t value)
{
	Vengine_sim &top = static_cast<Sim *>(sim)->top;
	switch (reg) {
#define CASE(number, name) case number: top.reg_##name = value; break;
		ENGINE_INPUTS(CASE)
#undef CASE
	}
}

uint32_t sim_get(void *handle, int reg)
{
	Sim &sim = *static_cast<Sim *>(handle);
	Vengine_sim &top = sim.top;
	switch (reg) {
#define CASE(number, name) case number: return top.reg_##name;
		ENGINE_INPUTS(CASE)
		ENGINE_OUTPUTS(CASE)
#undef CASE
#define CASE(number, place) case number: return sim.view(place);
		ENGINE_VIEWED(CASE)
#undef CASE
	}
	return 0;
}

/* Run until a bit of mask is set in the status register, at least one and at most ``cycles`` cycles; cycles run. */
uint64_t sim_run(void *sim, uint64_t cycles, uint32_t mask)
{
	Sim &s = *static_cast<Sim *>(sim);
	uint64_t n = 0;
	while (n < cycles) {
		s.cycle();
		n++;
		if (n > 1 && (s.top.reg_status & mask))
			break;
	}
	return n;
}

/* Cycles that the DRAM takes for a word. */
void sim_set_burst(void *sim, uint64_t cycles) { static_cast<Sim *>(sim)->burst = cycles; }

void sim_set_dead(void *sim, int dead) { static_cast<Sim *>(sim)->dead = dead; }

uint64_t sim_errors(void *sim) { return static_cast<Sim *>(sim)->errors; }

}
