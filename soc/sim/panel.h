// The appliance's front: keys that are pressed and frames that are looked at, over a Unix datagram socket.
#ifndef PANEL_H
#define PANEL_H

#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <string>
#include <vector>

static const size_t SHOWN_LINES = 480;
static const int HOLD_POLLS = 1200;      // of 512 cycles: longer than BOUNCE_CYCLES of firmware/appliance.c

// Messages, each answered by a datagram to its sender's address:
//   "keys <bits>"    these keys are held down now          -> "ok" after HOLD_POLLS: the firmware takes no change before
//   "frame <file>"   write the next whole picture as PPM   -> "ok" when it is written, or what went wrong
class Panel {
public:
	// No socket (an empty path): no message ever comes. Throws std::runtime_error if the path cannot be bound.
	explicit Panel(const std::string &path);
	~Panel();
	Panel(const Panel &) = delete;
	Panel &operator=(const Panel &) = delete;

	void poll();
	uint32_t keys() const { return keys_; }

	// While true, the display's clock is to run, and pixel() to be called after each of its edges.
	bool wants_frame() const { return !file_.empty(); }
	void pixel(bool de, bool vsync, uint8_t r, uint8_t g, uint8_t b);

private:
	void answer(const std::string &text);
	void write_frame();

	std::string path_, file_;
	int socket_ = -1;
	uint32_t keys_ = 0;
	int hold_ = 0;                           // polls until the keys' message is answered
	sockaddr_un asker_ = {};
	socklen_t asker_length_ = 0;
	bool vsync_ = false, open_ = false, de_ = false;   // open_: the picture under way began with its first line
	size_t lines_ = 0;
	std::vector<uint8_t> pixels_;
};

#endif
