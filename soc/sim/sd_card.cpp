#include "sd_card.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <stdexcept>

static const size_t BLOCK = 512;
static const uint8_t START_TOKEN = 0xfe, OUT_OF_RANGE_TOKEN = 0x08;
static const uint8_t R1_IDLE = 0x01, R1_ILLEGAL = 0x04, R1_CRC = 0x08, R1_ADDRESS = 0x20;

static uint8_t crc7(const std::vector<uint8_t> &frame)
{
	uint8_t crc = 0;
	for (int i = 0; i < 5; i++)
		for (int bit = 7; bit >= 0; bit--) {
			bool invert = (crc >> 6 ^ frame[i] >> bit) & 1;
			crc = (crc << 1 & 0x7f) ^ (invert ? 0x09 : 0);
		}
	return crc << 1 | 1;
}

static uint16_t crc16(const uint8_t *data, size_t length)
{
	uint16_t crc = 0;
	for (size_t i = 0; i < length; i++)
		for (int bit = 7; bit >= 0; bit--) {
			bool invert = (crc >> 15 ^ data[i] >> bit) & 1;
			crc = crc << 1 ^ (invert ? 0x1021 : 0);
		}
	return crc;
}

SdCard::SdCard(const std::string &path)
{
	if (path.empty())
		return;
	file_ = open(path.c_str(), O_RDONLY);
	off_t bytes = file_ < 0 ? -1 : lseek(file_, 0, SEEK_END);
	if (bytes < 0)
		throw std::runtime_error("the SD card's image " + path + " cannot be read: " + strerror(errno));
	blocks_ = bytes / BLOCK;
}

SdCard::~SdCard()
{
	if (file_ >= 0)
		close(file_);
}

void SdCard::edge(bool clk, bool cs_n, bool mosi)
{
	bool rising = clk && !clk_, falling = !clk && clk_;
	clk_ = clk;
	if (cs_n != cs_n_) {
		cs_n_ = cs_n;
		bits_ = 0;
		frame_.clear();
		answer_.clear();
		streaming_ = false;
		out_ = 0xff;
	}
	if (cs_n_ || file_ < 0) {
		miso_ = true;
		return;
	}
	if (rising) {
		in_ = in_ << 1 | mosi;
		if (++bits_ == 8) {
			bits_ = 0;
			byte_done(in_);
		}
	} else if (falling) {
		miso_ = out_ >> (7 - bits_) & 1;
	}
}

// A byte has come in; chooses the next one to go out.
void SdCard::byte_done(uint8_t value)
{
	if (!frame_.empty() || (value & 0xc0) == 0x40) {
		frame_.push_back(value);
		if (frame_.size() == 6) {
			uint32_t argument = (uint32_t)frame_[1] << 24 | frame_[2] << 16 | frame_[3] << 8 | frame_[4];
			command(frame_[0] & 0x3f, argument);
			frame_.clear();
		}
	} else if (sent_ >= answer_.size() && streaming_) {
		queue_block();
	}
	out_ = sent_ < answer_.size() ? answer_[sent_++] : 0xff;
}

// One byte of delay, the start token, the data and their CRC; behind the end of the card an error token.
void SdCard::queue_block()
{
	uint8_t data[BLOCK];
	sent_ = 0;
	if (next_block_ >= blocks_ || pread(file_, data, BLOCK, next_block_ * BLOCK) != (ssize_t)BLOCK) {
		answer_ = {0xff, OUT_OF_RANGE_TOKEN};
		streaming_ = false;
		return;
	}
	uint16_t crc = crc16(data, BLOCK);
	answer_ = {0xff, START_TOKEN};
	answer_.insert(answer_.end(), data, data + BLOCK);
	answer_.push_back(crc >> 8);
	answer_.push_back(crc);
	next_block_++;
}

void SdCard::command(uint8_t number, uint32_t argument)
{
	bool application = application_;
	uint8_t state = idle_ ? R1_IDLE : 0;
	application_ = false;
	sent_ = 0;
	// The CRC counts until the card is in SPI mode (CMD0), and always for CMD8.
	if ((number == 0 || number == 8) && frame_[5] != crc7(frame_)) {
		answer_ = {0xff, (uint8_t)(state | R1_CRC)};
	} else if (number == 0) {
		idle_ = true;
		answer_ = {0xff, R1_IDLE};
	} else if (number == 8) {
		answer_ = {0xff, state, 0, 0, (uint8_t)(argument >> 8 & 0xf), (uint8_t)argument};
	} else if (number == 55) {
		application_ = true;
		answer_ = {0xff, state};
	} else if (number == 41 && application) {
		idle_ = false;
		answer_ = {0xff, 0};
	} else if (number == 12) {
		streaming_ = false;
		answer_ = {0xff, 0xff, 0};
	} else if ((number == 17 || number == 18) && !idle_) {
		answer_ = {0xff, 0};
		next_block_ = argument;
		streaming_ = number == 18;
		if (argument >= blocks_) {
			answer_[1] = R1_ADDRESS;
			streaming_ = false;
		} else if (number == 17) {
			queue_block();
			answer_.insert(answer_.begin(), {0xff, 0});
		}
	} else {
		answer_ = {0xff, (uint8_t)(state | R1_ILLEGAL)};
	}
}
