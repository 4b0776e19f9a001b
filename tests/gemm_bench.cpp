// Drives the verilated GemmBench (test_gemm.py): memories, descriptors with random gaps, POST reads, halts.
#include <cstdint>
#include <cstring>
#include <random>
#include "Vgemm_bench.h"

namespace {
struct Bench {
    Vgemm_bench top;
    Bench() {
        top.sys_rst = 1;
        for (int i = 0; i < 4; i++) edge();
        top.sys_rst = 0;
    }
    // Settles the combinational outputs for the inputs as they are now.
#ifdef FAST                         // sys2x: twice the frequency, edges aligned
    void settle() { top.eval(); }
    void edge() {
        settle();
        fast(0, top.sys_clk); fast(1, 1); fast(0, 1); fast(1, 0);
    }
    void fast(int level, int sys) { top.sys2x_clk = level; top.sys_clk = sys; top.eval(); }
#else
    void settle() { top.sys_clk = 0; top.eval(); }
    void edge() { settle(); top.sys_clk = 1; top.eval(); }
#endif
};
}

struct Run {                        // mirrored by ctypes in test_gemm.py
    uint32_t count, gap_percent, read_percent, seed, max_cycles, halt_at;       // in; halt_at 0: never
    uint32_t stable_first, stable_count;                                        // in: entries POST may read
    uint32_t cycles, done, errors, error_code, words, words_w4, stalls;           // out
    uint32_t reads, read_waits, read_mismatches, late;                          // out; late: done or error after halt
};

extern "C" {

void *bench_new() { return new Bench; }
void bench_free(void *h) { delete static_cast<Bench *>(h); }

void bench_write(void *h, int wbuf, uint32_t address, const uint8_t *words, uint32_t count) {
    auto *b = static_cast<Bench *>(h);
    auto &top = b->top;
    for (uint32_t i = 0; i < count; i++) {
        top.write_spm = !wbuf; top.write_wbuf = wbuf; top.write_adr = address + i;
        memcpy(&top.write_data[0], words + 16 * i, 16);
        b->edge();
    }
    top.write_spm = top.write_wbuf = 0;
}

void bench_read(void *h, uint32_t entry, uint32_t count, uint8_t *data) {
    auto *b = static_cast<Bench *>(h);
    for (uint32_t i = 0; i < count; i++) {
        b->top.post_valid = 1; b->top.post_adr = entry + i;
        b->edge();
        b->top.post_valid = 0;
        b->edge();
        b->settle();
        memcpy(data + 32 * i, &b->top.post_data[0], 32);
    }
    b->edge();
}

// Runs descriptors until all are done, an error comes, or max_cycles; done_at: cycle of each done.
void bench_run(void *h, Run *r, const uint8_t *descriptors, const uint8_t *stable, uint32_t *done_at) {
    auto *b = static_cast<Bench *>(h);
    auto &top = b->top;
    std::mt19937 random(r->seed);
    auto chance = [&](uint32_t percent) { return random() % 100 < percent; };
    uint32_t sent = 0, entry = 0;
    bool offered = false, reading = false, halted = false, granted = false, pending = false;     // a read: granted, then answered
    uint32_t granted_entry = 0, pending_entry = 0, quiet = 0;
    for (r->cycles = 0; r->cycles < r->max_cycles && quiet < 4; r->cycles++) {
        if (!offered && !halted && sent < r->count && !chance(r->gap_percent)) {
            memcpy(&top.sink_desc[0], descriptors + 64 * sent, 64);
            offered = true;
        }
        halted |= r->halt_at && r->cycles >= r->halt_at;
        top.halt = halted && r->cycles < r->halt_at + 3;
        top.sink_valid = offered && !halted;
        if (!reading && r->stable_count && chance(r->read_percent)) {
            reading = true;
            entry = r->stable_first + (chance(50) ? random() : entry + 1) % r->stable_count;
        }
        top.post_valid = reading; top.post_adr = entry;
        b->settle();
        if (pending != (bool)top.post_rvalid) r->read_mismatches++;
        if (pending && memcmp(&top.post_data[0], stable + 32 * (pending_entry - r->stable_first), 32)) r->read_mismatches++;
        pending = granted, pending_entry = granted_entry;
        granted = reading && top.post_ready, granted_entry = entry;
        if (reading && !top.post_ready) r->read_waits++;
        if (granted) { reading = false; r->reads++; }
        if (top.sink_valid && top.sink_ready) { offered = false; sent++; }
        if (top.done) {
            if (r->done < r->count) done_at[r->done] = r->cycles;
            r->done++;
        }
        if (top.error) { r->errors++; r->error_code = top.error_code; }
        if (halted && r->cycles > r->halt_at && (top.done || top.error)) r->late++;
        r->words += top.mac_words; r->words_w4 += top.mac_w4 ? top.mac_words : 0; r->stalls += top.stall;
        bool finished = r->done == r->count || r->errors || (halted && r->cycles > r->halt_at + 3);
        quiet = finished && !top.active ? quiet + 1 : 0;
        b->edge();
    }
    top.sink_valid = top.halt = top.post_valid = 0;
    for (int i = 0; i < 2; i++) b->edge();          // a read granted in the last cycle is answered
}

}
