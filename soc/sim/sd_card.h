// An SD card (version 2, block addresses) on SPI, at pin level, with a file as its content.
#ifndef SD_CARD_H
#define SD_CARD_H

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

// Reads only. Bits are taken at the clock's rising edge and given at its falling edge (SPI mode 0).
class SdCard {
public:
	// No file (an empty path): no card, MISO stays high. Throws std::runtime_error if the file cannot be opened.
	explicit SdCard(const std::string &path);
	~SdCard();
	SdCard(const SdCard &) = delete;
	SdCard &operator=(const SdCard &) = delete;

	// The pins after a clock edge of the system; returns MISO.
	bool step(bool clk, bool cs_n, bool mosi)
	{
		if (clk != clk_ || cs_n != cs_n_)
			edge(clk, cs_n, mosi);
		return miso_;
	}

private:
	void edge(bool clk, bool cs_n, bool mosi);
	void byte_done(uint8_t value);
	void command(uint8_t number, uint32_t argument);
	void queue_block();

	int file_ = -1;
	uint64_t blocks_ = 0;
	bool clk_ = false, cs_n_ = true, miso_ = true;
	uint8_t in_ = 0, out_ = 0xff;
	int bits_ = 0;
	std::vector<uint8_t> frame_;             // bytes of the command under way
	std::vector<uint8_t> answer_;            // bytes to be sent
	size_t sent_ = 0;
	bool idle_ = true, application_ = false; // not yet started; the last command was CMD55
	bool streaming_ = false;                 // CMD18: blocks follow until CMD12
	uint64_t next_block_ = 0;
};

#endif
