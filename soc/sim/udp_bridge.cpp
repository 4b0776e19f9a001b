#include "udp_bridge.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <stdexcept>

static const size_t ETH_HEADER = 14, IP_HEADER = 20, UDP_HEADER = 8;
static const size_t MIN_FRAME = 60;      // without CRC
static const size_t MAX_PAYLOAD = 1472;  // of one unfragmented datagram
static const size_t MAX_WAITING = 64;    // frames; beyond that the socket's own buffer holds them
static const size_t MAX_PEERS = 100;     // the oldest is forgotten first
static const uint32_t FIRST_PEER_IP = 0xC0A80164;  // 192.168.1.100
static const uint16_t TYPE_IP = 0x0800, TYPE_ARP = 0x0806;

typedef std::vector<uint8_t> Bytes;

static void put(Bytes &out, uint64_t value, int bytes)
{
	for (int i = bytes - 1; i >= 0; i--)
		out.push_back(value >> (8 * i));
}

static uint32_t get(const Bytes &in, size_t at, int bytes)
{
	uint32_t value = 0;
	for (int i = 0; i < bytes; i++)
		value = value << 8 | in[at + i];
	return value;
}

static uint64_t peer_mac(uint32_t ip)
{
	return 0x020000000000ull | ip;   // locally administered
}

// Ref: RFC 1071, Internet checksum.
static uint16_t checksum(const Bytes &header)
{
	uint32_t sum = 0;
	for (size_t i = 0; i < header.size(); i += 2)
		sum += get(header, i, 2);
	while (sum >> 16)
		sum = (sum & 0xFFFF) + (sum >> 16);
	return ~sum;
}

UdpBridge::UdpBridge(uint16_t port, uint32_t device_ip, uint64_t device_mac, const std::vector<uint16_t> &device_ports)
	: device_ip_(device_ip), device_mac_(device_mac)
{
	for (size_t i = 0; i < device_ports.size(); i++)
		open(port ? port + i : 0, device_ports[i]);
}

UdpBridge::~UdpBridge()
{
	for (const Channel &channel : channels_)
		close(channel.socket);
}

void UdpBridge::open(uint16_t port, uint16_t device_port)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	sockaddr_in address = {};
	address.sin_family = AF_INET;
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons(port);
	socklen_t length = sizeof(address);
	if (fd < 0 || bind(fd, (sockaddr *)&address, length) != 0)
		throw std::runtime_error("cannot listen on UDP port 127.0.0.1:" + std::to_string(port) + ": " +
		                         strerror(errno) + "; choose another with --port");
	getsockname(fd, (sockaddr *)&address, &length);
	channels_.push_back({fd, ntohs(address.sin_port), device_port});
}

Bytes UdpBridge::frame(uint16_t ethertype, uint32_t ip, const Bytes &body) const
{
	Bytes out;
	out.reserve(ETH_HEADER + body.size());
	put(out, device_mac_, 6);
	put(out, peer_mac(ip), 6);
	put(out, ethertype, 2);
	out.insert(out.end(), body.begin(), body.end());
	if (out.size() < MIN_FRAME)
		out.resize(MIN_FRAME);
	return out;
}

uint32_t UdpBridge::peer_ip(const sockaddr_in &address, size_t channel)
{
	for (size_t i = 0; i < peers_.size(); i++) {
		const Peer &peer = peers_[i];
		if (peer.channel == channel && peer.address.sin_addr.s_addr == address.sin_addr.s_addr &&
		    peer.address.sin_port == address.sin_port)
			return FIRST_PEER_IP + i;
	}
	if (peers_.size() == MAX_PEERS)
		peers_.clear();
	peers_.push_back({address, channel});
	return FIRST_PEER_IP + peers_.size() - 1;
}

// One datagram of each socket in turn, so that a busy port does not keep the others waiting.
void UdpBridge::poll()
{
	bool more = true;
	while (more) {
		more = false;
		for (size_t i = 0; i < channels_.size() && to_device_.size() < MAX_WAITING; i++)
			more |= receive(i);
	}
}

// Takes one datagram from a socket; false: none was there.
bool UdpBridge::receive(size_t channel)
{
	uint8_t payload[MAX_PAYLOAD];
	sockaddr_in from;
	socklen_t length = sizeof(from);
	ssize_t size = recvfrom(channels_[channel].socket, payload, sizeof(payload), 0, (sockaddr *)&from, &length);
	if (size < 0)
		return false;
	uint32_t ip = peer_ip(from, channel);
	Bytes header;
	put(header, 0x45000000 | (IP_HEADER + UDP_HEADER + size), 4);
	put(header, 0x00004000, 4);          // identification 0, don't fragment
	put(header, 0x40110000, 4);          // time to live 64, UDP, checksum to come
	put(header, ip, 4);
	put(header, device_ip_, 4);
	uint16_t sum = checksum(header);
	header[10] = sum >> 8;
	header[11] = sum;
	put(header, ntohs(from.sin_port), 2);
	put(header, channels_[channel].device_port, 2);
	put(header, UDP_HEADER + size, 2);
	put(header, 0, 2);                   // no UDP checksum
	header.insert(header.end(), payload, payload + size);
	to_device_.push_back(frame(TYPE_IP, ip, header));
	return true;
}

Bytes UdpBridge::next_frame()
{
	Bytes out = std::move(to_device_.front());
	to_device_.pop_front();
	return out;
}

void UdpBridge::from_device(const Bytes &in)
{
	if (in.size() < ETH_HEADER)
		return;
	switch (get(in, 12, 2)) {
	case TYPE_ARP: return answer_arp(in);
	case TYPE_IP: return deliver_udp(in);
	}
}

void UdpBridge::answer_arp(const Bytes &in)
{
	if (in.size() < ETH_HEADER + 28 || get(in, ETH_HEADER + 6, 2) != 1)
		return;
	uint32_t ip = get(in, ETH_HEADER + 24, 4);
	Bytes body;
	put(body, 0x0001080006040002, 8);        // Ethernet, IPv4, lengths 6 and 4, reply
	put(body, peer_mac(ip), 6);
	put(body, ip, 4);
	put(body, device_mac_, 6);
	put(body, device_ip_, 4);
	to_device_.push_back(frame(TYPE_ARP, ip, body));
}

void UdpBridge::deliver_udp(const Bytes &in)
{
	const size_t udp = ETH_HEADER + IP_HEADER;
	if (in.size() < udp + UDP_HEADER || in[ETH_HEADER + 9] != 17)
		return;
	uint32_t index = get(in, ETH_HEADER + 16, 4) - FIRST_PEER_IP;
	size_t length = get(in, udp + 4, 2);
	if (index >= peers_.size() || length < UDP_HEADER || udp + length > in.size())
		return;
	const Peer &peer = peers_[index];
	sendto(channels_[peer.channel].socket, &in[udp + UDP_HEADER], length - UDP_HEADER, 0, (const sockaddr *)&peer.address,
	       sizeof(peer.address));
}
