// Drives the verilated Bulk (bulk_rtl.py): datagrams in with random gaps, replies out with random stalls, and a DRAM
// behind the native port: commands in order, one native word every two cycles, data some cycles after the command.
#include <cstdint>
#include <cstring>
#include <deque>
#include <random>
#include <vector>
#include "Vbulk_bench.h"

namespace {
constexpr int WORD = BULK_NATIVE_BYTES, WRITE_LATENCY = 8, READ_LATENCY = 24, COMMANDS = 8;

struct Command { bool we; uint32_t address; uint64_t due; };
struct Datagram { std::vector<uint32_t> words; uint32_t ip, port, length; };

struct Bench {
    Vbulk_bench top;
    std::vector<uint8_t> memory;
    std::mt19937 random{1};
    uint32_t stall = 0;                     // percent
    uint64_t cycles = 0, next_service = 0;
    uint32_t errors = 0;                    // broken rules of the ports
    std::deque<Command> commands;
    std::deque<Datagram> in, out;
    Datagram reply;
    size_t at = 0;                          // word of in.front()
    bool offered = false, accepting = false;

    explicit Bench(uint32_t bytes) : memory(bytes) {
        top.sys_rst = 1;
        for (int i = 0; i < 4; i++) { top.sys_clk = 0; top.eval(); top.sys_clk = 1; top.eval(); }
        top.sys_rst = 0;
    }

    bool hold() { return stall && random() % 100 < stall; }

    void drive_streams() {
        offered = !in.empty() && (offered || !hold());
        top.sink_valid = offered;
        if (offered) {
            const Datagram &d = in.front();
            top.sink_data = d.words[at];
            top.sink_last = at + 1 == d.words.size();
            top.sink_ip_address = d.ip; top.sink_src_port = d.port; top.sink_length = d.length;
        }
        top.source_ready = !hold();
    }

    void drive_memory() {
        accepting = commands.size() < COMMANDS && !hold();
        top.cmd_ready = accepting;
        bool due = !commands.empty() && commands.front().due <= cycles;
        top.wdata_ready = due && commands.front().we;
        top.rdata_valid = due && !commands.front().we;
        if (top.rdata_valid)
            memcpy(&top.rdata_data, &memory[(uint64_t)commands.front().address * WORD], WORD);
    }

    void cycle() {
        drive_streams();
        drive_memory();
        top.sys_clk = 0;
        top.eval();
        if (top.wdata_ready) {
            if (!top.wdata_valid) errors++;
            memcpy(&memory[(uint64_t)commands.front().address * WORD], &top.wdata_data, WORD);
        }
        if (top.rdata_valid && !top.rdata_ready) errors++;
        if (top.wdata_ready || top.rdata_valid) commands.pop_front();
        if (top.cmd_valid && accepting) {
            if ((uint64_t)(top.cmd_addr + 1) * WORD > memory.size()) { errors++; top.cmd_addr = 0; }
            next_service = std::max(next_service + 2, cycles + (top.cmd_we ? WRITE_LATENCY : READ_LATENCY) + (hold() ? random() % 16 : 0));
            commands.push_back({(bool)top.cmd_we, top.cmd_addr, next_service});
        }
        if (top.sink_valid && top.sink_ready) {
            offered = false;
            if (++at == in.front().words.size()) { in.pop_front(); at = 0; }
        }
        if (top.source_valid)               // an answer means that the data are in the memory
            for (const Command &c : commands) errors += c.we;
        if (top.source_valid && top.source_ready) {
            if (reply.words.empty()) reply.ip = top.source_ip_address, reply.port = top.source_dst_port, reply.length = top.source_length;
            if (reply.ip != top.source_ip_address || reply.port != top.source_dst_port || reply.length != top.source_length) errors++;
            reply.words.push_back(top.source_data);
            if (top.source_last) { out.push_back(reply); reply.words.clear(); }
        }
        top.sys_clk = 1;
        top.eval();
        cycles++;
    }
};
}

extern "C" {

void *bench_new(uint32_t bytes) { return new Bench(bytes); }
void bench_free(void *h) { delete static_cast<Bench *>(h); }
uint8_t *bench_memory(void *h) { return static_cast<Bench *>(h)->memory.data(); }
uint64_t bench_cycles(void *h) { return static_cast<Bench *>(h)->cycles; }
uint32_t bench_errors(void *h) { return static_cast<Bench *>(h)->errors; }
void bench_session(void *h, uint32_t session) { static_cast<Bench *>(h)->top.session = session; }

void bench_stall(void *h, uint32_t percent, uint32_t seed) {
    auto *b = static_cast<Bench *>(h);
    b->stall = percent;
    b->random.seed(seed);
}

// Queues a datagram: the words that come, and the length that UDP's header claims.
void bench_send(void *h, const uint32_t *words, uint32_t count, uint32_t length, uint32_t ip, uint32_t port) {
    static_cast<Bench *>(h)->in.push_back({std::vector<uint32_t>(words, words + count), ip, port, length});
}

// Runs until nothing has been under way for ``quiet`` cycles; 0 when that is not so after ``limit`` cycles.
int bench_run(void *h, uint32_t quiet, uint32_t limit) {
    auto *b = static_cast<Bench *>(h);
    for (uint32_t rest = quiet; rest && limit; limit--) {
        b->cycle();
        rest = b->in.empty() && b->reply.words.empty() && b->commands.empty() && !b->top.busy ? rest - 1 : quiet;
    }
    return limit != 0;
}

// The next reply: its words, or 0 when there is none. ``length`` as in the UDP header to be.
uint32_t bench_reply(void *h, uint32_t *words, uint32_t *length, uint32_t *ip, uint32_t *port) {
    auto *b = static_cast<Bench *>(h);
    if (b->out.empty()) return 0;
    const Datagram d = b->out.front();
    b->out.pop_front();
    memcpy(words, d.words.data(), 4 * d.words.size());
    *length = d.length; *ip = d.ip; *port = d.port;
    return d.words.size();
}

}
