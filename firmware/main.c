/* Start of the firmware: bring up UART and DRAM, then serve the mailbox, and the keys if there is an SD card, for ever. */
#include <stdio.h>

#include <generated/csr.h>
#include <irq.h>
#include <libbase/uart.h>
#include <liblitedram/sdram.h>

#include "appliance.h"
#include "console.h"
#include "hw_soc.h"

int main(void);

int main(void)
{
	static struct firmware fw;
#ifdef CSR_SPISDCARD_BASE
	static struct appliance appliance;
#endif
	bool dram_ok;

	irq_setmask(0);
	irq_setie(1);
	uart_init();
	/* A stale magic number would tell a host that the DRAM is up. */
	hw_soc.mailbox_write(LDI_STATE_MAGIC, 0);
	puts("\nlitediffusion firmware");
	dram_ok = sdram_init() == 1;
	firmware_boot(&fw, &hw_soc, dram_ok);
	puts(fw.boot.error ? fw.boot.text.s : "ready");
#ifdef CSR_SPISDCARD_BASE
	appliance_boot(&appliance, &fw);
#endif
	console_prompt(&fw);
	for (;;) {
		firmware_poll(&fw);
#ifdef CSR_SPISDCARD_BASE
		appliance_poll(&appliance);
#endif
	}
}
