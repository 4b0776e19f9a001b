// Bench of the POST unit: memories with randomly withheld grants around the verilated PostBench (see test_post.py).
#include "VPostBench.h"
#include "verilated.h"
#include <cstdint>
#include <cstring>
#include <vector>

double sc_time_stamp() { return 0; }

namespace {

VPostBench *top;
uint64_t random_state;

uint32_t random32() {
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return random_state >> 16;
}

void tick() {
    top->sys_clk = 1;
    top->eval();
    top->sys_clk = 0;
    top->eval();
}

// One read port: grants at random, data two cycles later, garbage otherwise.
struct Reader {
    const uint8_t *memory = nullptr;
    unsigned bytes = 0, permille = 0;
    int64_t granted = -1, pending = -1;

    bool drive(uint32_t *data, uint8_t &rvalid) {
        rvalid = pending >= 0;
        if (rvalid) memcpy(data, memory + pending * bytes, bytes);
        else for (unsigned i = 0; i < bytes / 4; i++) data[i] = random32();
        return random32() % 1000 >= permille;
    }
    void sample(bool valid, bool ready, unsigned adr) { pending = granted, granted = valid && ready ? int64_t(adr) : -1; }
};

void write_word(uint8_t *memory, unsigned adr, unsigned we, const uint32_t *data) {
    for (unsigned half = 0; half < 2; half++)
        if (we >> half & 1) memcpy(memory + adr * 16 + half * 8, data + half * 2, 8);
}

int64_t sign(uint64_t value, unsigned bits) { return int64_t(value << (64 - bits)) >> (64 - bits); }

}  // namespace

struct Memories {
    uint8_t *acc, *spm, *wbuf, *param;
    int64_t *row;       // [6][row_words]: max, m, e, o, s, q
    int64_t *stat;      // [2][stat_words][8]: s, q
    uint32_t row_words, stat_words;
};

#if POST_LANES == 8
#define LANES(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)
#elif POST_LANES == 4
#define LANES(F) F(0) F(1) F(2) F(3)
#elif POST_LANES == 2
#define LANES(F) F(0) F(1)
#else
#define LANES(F) F(0)
#endif

static void transfer_records(const Memories &m, bool load) {
    const unsigned rows = m.row_words, stats = m.stat_words;
    int64_t *row = m.row, *s = m.stat, *q = m.stat + stats * 8;
    for (unsigned i = 0; i < rows; i++) {
        top->row_w_adr = top->row_r_adr = i;
        top->row_we_max = top->row_we_me = top->row_we_o = top->row_we_sq = load;
        top->row_w_max = row[i], top->row_w_m = row[rows + i] & 0xFFFF, top->row_w_e = row[2 * rows + i] & 31;
        top->row_w_o = row[3 * rows + i], top->row_w_s = row[4 * rows + i];
        top->row_w_q = row[5 * rows + i] & ((1ull << 36) - 1);
        tick();
        if (load) continue;
        row[i] = sign(top->row_r_max, 32), row[rows + i] = sign(top->row_r_m, 16), row[2 * rows + i] = top->row_r_e;
        row[3 * rows + i] = sign(top->row_r_o, 32), row[4 * rows + i] = sign(top->row_r_s, 32);
        row[5 * rows + i] = top->row_r_q;
    }
    top->row_we_max = top->row_we_me = top->row_we_o = top->row_we_sq = 0;
    for (unsigned i = 0; i < stats * 8 / POST_LANES; i++) {      // POST_LANES channels at each address
        top->stat_w_adr = top->stat_r_adr = i;
        top->stat_we = load;
#define WRITE_LANE(n) top->stat_w_s##n = s[i * POST_LANES + n] & 0xFFFFFF; top->stat_w_q##n = q[i * POST_LANES + n];
        LANES(WRITE_LANE)
        tick();
#define READ_LANE(n) s[i * POST_LANES + n] = sign(top->stat_r_s##n, 24); q[i * POST_LANES + n] = sign(top->stat_r_q##n, 32);
        if (!load) { LANES(READ_LANE) }
    }
    top->stat_we = 0;
}

// Runs ``count`` descriptors back to back. permille: refusal rate of acc, src, opr, wr, wwr
// and rate of ``halt``. cycles[i]: from taken to
// done, stalls[i]: of them with ``stall``. Returns 0, the error code, -1 after ``limit`` cycles, -2 for activity after an
// error, -3 for a write during ``halt`` or a read after it.
extern "C" int post_run(const uint8_t *descs, unsigned count, Memories *m, uint64_t seed, const uint32_t *permille,
                        uint32_t limit, uint32_t *cycles, uint32_t *stalls) {
    if (!top) top = new VPostBench;
    random_state = seed * 2654435761u + 88172645463325252ull;
    top->halt = 0, top->sink_valid = 0, top->sys_rst = 1;
    top->acc_ready = top->src_ready = top->opr_ready = top->wr_ready = top->wwr_ready = 0;
    tick();
    top->sys_rst = 0;
    transfer_records(*m, true);
    Reader acc{m->acc, 32, permille[0]}, src{m->spm, 16, permille[1]}, opr{m->spm, 16, permille[2]};
    unsigned sent = 0, finished = 0, started = 0, stalled = 0, param_adr = 0;
    int result = -1;
    for (unsigned cycle = 0; cycle < limit && finished < count; cycle++) {
        top->acc_ready = acc.drive(&top->acc_dat_r[0], top->acc_rvalid);
        top->src_ready = src.drive(&top->src_dat_r[0], top->src_rvalid);
        top->opr_ready = opr.drive(&top->opr_dat_r[0], top->opr_rvalid);
        top->wr_ready = random32() % 1000 >= permille[3];
        top->wwr_ready = random32() % 1000 >= permille[4];
        memcpy(&top->param_dat[0], m->param + param_adr * 64, 64);
        top->sink_valid = sent < count;
        if (sent < count) memcpy(&top->sink_desc[0], descs + 64 * sent, 64);
        const bool halted = top->halt;
        top->halt = random32() % 1000 < permille[5];
        top->eval();
        if (top->halt && (top->wr_valid || top->wwr_valid)) return -3;
        if (halted && (top->acc_valid || top->src_valid || top->opr_valid)) return -3;
        acc.sample(top->acc_valid, top->acc_ready, top->acc_adr);
        src.sample(top->src_valid, top->src_ready, top->src_adr);
        opr.sample(top->opr_valid, top->opr_ready, top->opr_adr);
        if (top->wr_valid && top->wr_ready) write_word(m->spm, top->wr_adr, top->wr_we, &top->wr_dat_w[0]);
        if (top->wwr_valid && top->wwr_ready) write_word(m->wbuf, top->wwr_adr, top->wwr_we, &top->wwr_dat_w[0]);
        param_adr = top->param_adr;
        stalled += top->stall;
        bool failed = top->error;
        if (failed) result = top->error_code;
        if (top->sink_valid && top->sink_ready) started = cycle, stalled = 0, sent++;
        if (top->done) cycles[finished] = cycle - started, stalls[finished] = stalled, finished++;
        tick();
        if (failed) break;
    }
    top->halt = 0;
    if (finished == count) result = 0;
    for (unsigned i = 0; i < 100 && result > 0; i++) {      // nothing may be finished or taken after an error
        top->sink_valid = 1;
        top->eval();
        if (top->done || top->sink_ready || top->acc_valid || top->src_valid || top->opr_valid) result = -2;
        tick();
    }
    top->sink_valid = 0;
    tick();
    if (result == 0) transfer_records(*m, false);
    return result;
}
