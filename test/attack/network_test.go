package attack

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"
)

// network gives sockets out. In a simulated one time is virtual.
type network func(t *testing.T) net.PacketConn

const latency = 2 * time.Millisecond

func simulated() network {
	router, hosts := &simnet.PerfectRouter{}, 0
	return func(t *testing.T) net.PacketConn {
		t.Helper()
		hosts++
		addr := &net.UDPAddr{IP: net.ParseIP(fmt.Sprintf("192.0.2.%d", hosts)).To4(), Port: 7000}
		host := &simnet.Simnet{Router: router} // of its own: one starts all its links at once
		conn := host.NewEndpoint(addr, simnet.NodeBiDiLinkSettings{Latency: latency})
		if err := host.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := host.Close(); err != nil {
				t.Error(err)
			}
		})
		return conn
	}
}

func loopback(t *testing.T) net.PacketConn {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// attacked runs an attack on a fleet of a size over both networks.
func attacked(t *testing.T, size int, attack func(t *testing.T, f *fleet)) {
	attackedInVirtualTime(t, size, attack)
	t.Run("loopback", func(t *testing.T) { attack(t, newFleet(t, loopback, size)) })
}

// attackedInVirtualTime is for what is asked on both networks elsewhere, and here in one case more.
func attackedInVirtualTime(t *testing.T, size int, attack func(t *testing.T, f *fleet)) {
	t.Run("simulated", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			t.Cleanup(func() { time.Sleep(time.Minute) }) // the last timers of what was closed
			attack(t, newFleet(t, simulated(), size))
		})
	})
}

// virtual reports whether time is. Where it is real, no test asks how soon something comes.
func virtual(t *testing.T) bool { return !strings.Contains(t.Name(), "/loopback") }

// pass lets so much time go by. Where it is real, a second is the most.
func pass(t *testing.T, d time.Duration) {
	if !virtual(t) {
		d = min(d, time.Second)
	}
	time.Sleep(d)
}

// rounds is how often something is done: fewer times where each costs real time.
func rounds(t *testing.T, inVirtualTime, onLoopback int) int {
	if virtual(t) {
		return inVirtualTime
	}
	return onLoopback
}

// seconds is how many have begun since start: what a rate allows by now.
func seconds(start time.Time) int { return int(time.Since(start)/time.Second) + 1 }

// bound is how long is waited for what has to come within some time. Where time is real that is long:
// a busy machine may take its time over anything, and how soon it has to come the same attack shows
// in virtual time.
func bound(t *testing.T, within time.Duration) time.Duration {
	if within > 0 && !virtual(t) {
		return max(within, time.Minute)
	}
	return within
}

// eventually waits until cond holds, at most for within; zero asks whether it does.
func eventually(t *testing.T, within time.Duration, what string, cond func() bool) {
	t.Helper()
	for start, most := time.Now(), bound(t, within); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Since(start) > most {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}
