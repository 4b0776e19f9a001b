// UDP sockets on the loopback on one side, Ethernet frames for a simulated PHY on the other.
#ifndef UDP_BRIDGE_H
#define UDP_BRIDGE_H

#include <netinet/in.h>
#include <stdint.h>

#include <deque>
#include <string>
#include <vector>

// Each UDP port of the device has a socket. Each UDP peer appears to the device as a host of its own, 192.168.1.100 upwards,
// so that its answers find the way back. ARP requests of the device are answered here. Frames have no preamble, CRC or padding.
class UdpBridge {
public:
	// Binds 127.0.0.1:port for the first device port, port + 1 for the next and so on (port 0: any free ones). Throws
	// std::runtime_error if a port is taken.
	UdpBridge(uint16_t port, uint32_t device_ip, uint64_t device_mac, const std::vector<uint16_t> &device_ports);
	~UdpBridge();
	UdpBridge(const UdpBridge &) = delete;
	UdpBridge &operator=(const UdpBridge &) = delete;

	// Where the device's n-th port is to be found.
	uint16_t port(size_t n) const { return channels_[n].port; }

	// Moves datagrams that wait at the sockets into the queue of frames for the device.
	void poll();

	bool has_frame() const { return !to_device_.empty(); }
	std::vector<uint8_t> next_frame();

	// A frame that the device sent: UDP goes to its peer, ARP is answered, the rest is dropped.
	void from_device(const std::vector<uint8_t> &frame);

private:
	struct Channel {
		int socket;
		uint16_t port, device_port;
	};
	struct Peer {
		sockaddr_in address;
		size_t channel;
	};

	void open(uint16_t port, uint16_t device_port);
	bool receive(size_t channel);
	std::vector<uint8_t> frame(uint16_t ethertype, uint32_t peer_ip, const std::vector<uint8_t> &body) const;
	uint32_t peer_ip(const sockaddr_in &address, size_t channel);
	void answer_arp(const std::vector<uint8_t> &request);
	void deliver_udp(const std::vector<uint8_t> &packet);

	uint32_t device_ip_;
	uint64_t device_mac_;
	std::vector<Channel> channels_;
	std::deque<std::vector<uint8_t>> to_device_;
	std::vector<Peer> peers_;
};

#endif
