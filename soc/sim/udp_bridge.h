// A UDP socket on the loopback on one side, Ethernet frames for a simulated PHY on the other.
#ifndef UDP_BRIDGE_H
#define UDP_BRIDGE_H

#include <netinet/in.h>
#include <stdint.h>

#include <deque>
#include <string>
#include <vector>

// Each UDP peer appears to the device as a host of its own, 192.168.1.100 upwards, so that its answers find the
// way back. ARP requests of the device are answered here. Frames have no preamble, CRC or padding.
class UdpBridge {
public:
	// Binds 127.0.0.1:port (0: any free port). Throws std::runtime_error if the port is taken.
	UdpBridge(uint16_t port, uint32_t device_ip, uint64_t device_mac, uint16_t device_port);
	~UdpBridge();
	UdpBridge(const UdpBridge &) = delete;
	UdpBridge &operator=(const UdpBridge &) = delete;

	uint16_t port() const { return port_; }

	// Moves datagrams that wait at the socket into the queue of frames for the device.
	void poll();

	bool has_frame() const { return !to_device_.empty(); }
	std::vector<uint8_t> next_frame();

	// A frame that the device sent: UDP goes to its peer, ARP is answered, the rest is dropped.
	void from_device(const std::vector<uint8_t> &frame);

private:
	std::vector<uint8_t> frame(uint16_t ethertype, uint32_t peer_ip, const std::vector<uint8_t> &body) const;
	uint32_t peer_ip(const sockaddr_in &address);
	void answer_arp(const std::vector<uint8_t> &request);
	void deliver_udp(const std::vector<uint8_t> &packet);

	int socket_;
	uint16_t port_;
	uint32_t device_ip_;
	uint64_t device_mac_;
	uint16_t device_port_;
	std::deque<std::vector<uint8_t>> to_device_;
	std::vector<sockaddr_in> peers_;
};

#endif
