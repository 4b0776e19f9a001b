/* The hardware interface on LiteX's CSRs and memory map. */
#include "hw_soc.h"

#include "hw_appliance.h"

#include <stdio.h>

#include <generated/csr.h>
#include <generated/mem.h>
#include <irq.h>
#include <libbase/uart.h>
#include <system.h>

#if CONFIG_CSR_DATA_WIDTH != 32
#error "CSRs must be 32 bits wide: an engine register is one bus word"
#endif

#ifdef CSR_ENGINE_BASE
#define ADDRESS(value, name, text) CSR_ENGINE_##name##_ADDR,
static const unsigned long engine_regs[] = { LDI_REGS(ADDRESS) };

static void set_reg(enum ldi_reg reg, uint32_t value)
{
	csr_write_simple(value, engine_regs[reg]);
}

static uint32_t get_reg(enum ldi_reg reg)
{
	return csr_read_simple(engine_regs[reg]);
}

static void get_regs(enum ldi_reg first, uint32_t count, uint32_t *values)
{
	for (const unsigned long *at = engine_regs + first; count; count--)
		*values++ = csr_read_simple(*at++);
}
#else
/* A SoC without an engine boots and reports WRONG_CONFIG: its configuration hash reads 0. */
static void set_reg(enum ldi_reg reg, uint32_t value)
{
	(void)reg;
	(void)value;
}

static uint32_t get_reg(enum ldi_reg reg)
{
	(void)reg;
	return 0;
}

static void get_regs(enum ldi_reg first, uint32_t count, uint32_t *values)
{
	(void)first;
	while (count--)
		*values++ = 0;
}
#endif

/* The low word of LiteX's 64-bit uptime: CSRs wider than the bus have their low word last. */
static uint32_t cycles(void)
{
	timer0_uptime_latch_write(1);
	return csr_read_simple(CSR_TIMER0_UPTIME_CYCLES_ADDR + 4);
}

static uint32_t mailbox_read(uint32_t offset)
{
	return *(volatile uint32_t *)(LDI_MAILBOX_ADDRESS + offset);
}

static void mailbox_write(uint32_t offset, uint32_t value)
{
	*(volatile uint32_t *)(LDI_MAILBOX_ADDRESS + offset) = value;
}

static bool doorbell_pending(void)
{
	return mailbox_ev_pending_read() != 0;
}

static void doorbell_clear(void)
{
	mailbox_ev_pending_write(1);
}

static uint32_t window_read(uint32_t offset)
{
	return *(volatile uint32_t *)(LDI_WINDOW_ADDRESS + offset);
}

static void window_write(uint32_t offset, uint32_t value)
{
	*(volatile uint32_t *)(LDI_WINDOW_ADDRESS + offset) = value;
}

static void window_put(uint32_t offset, const uint32_t *words, uint32_t count)
{
	for (volatile uint32_t *to = (volatile uint32_t *)(LDI_WINDOW_ADDRESS + offset); count; count--)
		*to++ = *words++;
}

/* Nothing is left of these on a SoC without data cache and L2. The L2 is flushed by reading through the data cache. */
static void sync_memory(void)
{
	flush_cpu_dcache();
	flush_l2_cache();
	flush_cpu_dcache();
}

static int get_character(void)
{
	return uart_read_nonblock() ? (unsigned char)uart_read() : -1;
}

static void put_string(const char *s)
{
	fputs(s, stdout);
}

static void reboot(void)
{
	uart_sync();
	ctrl_reset_write(1);
}

static uint32_t owner(void)
{
	return mailbox_owner_read();
}

const struct hw hw_soc = {
	.set_reg = set_reg, .get_reg = get_reg, .get_regs = get_regs, .cycles = cycles,
	.mailbox_read = mailbox_read, .mailbox_write = mailbox_write,
	.doorbell_pending = doorbell_pending, .doorbell_clear = doorbell_clear,
	.window_read = window_read, .window_write = window_write, .window_put = window_put, .sync_memory = sync_memory,
	.getchar = get_character, .puts = put_string, .reboot = reboot,
	.frame_put = frame_put, .frame_lines = frame_lines, .keys = keys, .card_start = card_start, .owner = owner,
};
