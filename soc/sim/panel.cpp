#include "panel.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <stdexcept>

Panel::Panel(const std::string &path) : path_(path)
{
	sockaddr_un address = {};
	if (path.empty())
		return;
	address.sun_family = AF_UNIX;
	if (path.size() >= sizeof(address.sun_path))
		throw std::runtime_error("the panel's socket " + path + ": the path is too long, the limit is 107 bytes");
	strcpy(address.sun_path, path.c_str());
	socket_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	if (socket_ < 0 || bind(socket_, (sockaddr *)&address, sizeof(address)))
		throw std::runtime_error("the panel's socket " + path + " cannot be made: " + strerror(errno));
}

Panel::~Panel()
{
	if (socket_ >= 0) {
		close(socket_);
		unlink(path_.c_str());
	}
}

void Panel::answer(const std::string &text)
{
	sendto(socket_, text.data(), text.size(), 0, (sockaddr *)&asker_, asker_length_);
}

// One message at a time: until it is answered the next ones wait.
void Panel::poll()
{
	char message[4096];
	if (hold_ && !--hold_)
		answer("ok");
	if (socket_ < 0 || wants_frame() || hold_)
		return;
	asker_length_ = sizeof(asker_);
	ssize_t length = recvfrom(socket_, message, sizeof(message) - 1, 0, (sockaddr *)&asker_, &asker_length_);
	if (length < 0)
		return;
	message[length] = 0;
	if (!strncmp(message, "keys ", 5)) {
		keys_ = strtoul(message + 5, nullptr, 0);
		hold_ = HOLD_POLLS;
	} else if (!strncmp(message, "frame ", 6)) {
		file_ = message + 6;
	} else {
		answer("unknown message: \"keys <bits>\" or \"frame <file>\"");
	}
}

// A frame ends with its last pixel, before the display reads on; the clock stands still there until the next one is wanted, and
// what was read is never old.
void Panel::pixel(bool de, bool vsync, uint8_t r, uint8_t g, uint8_t b)
{
	bool ended = de_ && !de, started = vsync && !vsync_;
	de_ = de;
	vsync_ = vsync;
	if (de)
		pixels_.insert(pixels_.end(), {r, g, b});
	lines_ += ended;
	if (started || (ended && lines_ == SHOWN_LINES)) {
		if (open_ && lines_)
			write_frame();
		open_ = true;
		pixels_.clear();
		lines_ = 0;
	}
}

void Panel::write_frame()
{
	FILE *file = fopen(file_.c_str(), "wb");
	if (!file) {
		answer(file_ + ": " + strerror(errno));
	} else {
		fprintf(file, "P6\n%zu %zu\n255\n", pixels_.size() / 3 / lines_, lines_);
		fwrite(pixels_.data(), 1, pixels_.size(), file);
		fclose(file);
		answer("ok");
	}
	file_.clear();
}
