package roster

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func id(name string) spiffeid.ID {
	return spiffeid.RequireFromString("spiffe://" + label + "/node/" + name)
}

// hub is an in-memory network of authenticated peers.
type hub struct {
	names []string
	keys  map[string]*ecdsa.PrivateKey

	mu    sync.Mutex
	ports map[string]*hubPort
	down  map[string]bool
	deaf  map[string]bool
}

// hubPort is one node's place in the hub.
type hubPort struct {
	hub       *hub
	name      string
	datagrams chan Datagram
	streams   chan InboundStream
}

func newHub(t testing.TB, names ...string) *hub {
	t.Helper()
	h := &hub{names: names, keys: map[string]*ecdsa.PrivateKey{}, ports: map[string]*hubPort{}, down: map[string]bool{}, deaf: map[string]bool{}}
	for _, n := range names {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		h.keys[n] = key
	}
	return h
}

func certHash(name string, epoch uint64) [32]byte { return sha256.Sum256(fmt.Append(nil, name, epoch)) }

func (h *hub) record(t testing.TB, name string, epoch uint64) []byte {
	t.Helper()
	b, err := SignRecord(h.keys[name], Record{id(name), netip.MustParseAddrPort("127.0.0.1:7001"), epoch, certHash(name, epoch)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// key knows the certificates of epochs 1 and 2 only.
func (h *hub) key(who spiffeid.ID, epoch uint64, cert [32]byte) (*ecdsa.PublicKey, error) {
	for _, n := range h.names {
		if id(n) == who && certHash(n, epoch) == cert && epoch <= 2 {
			return &h.keys[n].PublicKey, nil
		}
	}
	return nil, ErrUnknownKey
}

func (h *hub) port(name string) *hubPort {
	p := &hubPort{h, name, make(chan Datagram, 1024), make(chan InboundStream, 64)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ports[name] = p
	return p
}

func (h *hub) setDown(name string, down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down[name] = down
}

func (h *hub) setDeaf(name string, deaf bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deaf[name] = deaf
}

func (h *hub) route(from, to string) *hubPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down[from] || h.down[to] || h.deaf[to] {
		return nil
	}
	return h.ports[to]
}

// inject delivers a packet as if from had sent it.
func (h *hub) inject(from, to string, b []byte) {
	if p := h.route(from, to); p != nil {
		p.datagrams <- Datagram{id(from), b}
	}
}

func (p *hubPort) SendDatagram(peer spiffeid.ID, b []byte, _ bool) error {
	name, _ := p.NameOf(peer)
	to := p.hub.route(p.name, name)
	if to == nil {
		return errors.New("no route")
	}
	select {
	case to.datagrams <- Datagram{id(p.name), slices.Clone(b)}:
	default:
	}
	return nil
}

func (p *hubPort) Datagrams() <-chan Datagram { return p.datagrams }

func (p *hubPort) Dial(ctx context.Context, peer spiffeid.ID) (net.Conn, error) {
	name, _ := p.NameOf(peer)
	to := p.hub.route(p.name, name)
	if to == nil || p.hub.route(name, p.name) == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	here, there := net.Pipe()
	select {
	case to.streams <- InboundStream{id(p.name), there}:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *hubPort) Accept() <-chan InboundStream { return p.streams }

func (p *hubPort) PeerByName(name string) (spiffeid.ID, bool) {
	return id(name), slices.Contains(p.hub.names, name)
}

func (p *hubPort) NameOf(peer spiffeid.ID) (string, bool) {
	name := peer.Path()[strings.LastIndexByte(peer.Path(), '/')+1:]
	return name, slices.Contains(p.hub.names, name)
}

// start starts a node of the hub and notes its hints.
func (h *hub) start(t *testing.T, name string, epoch uint64) (*Roster, *prometheus.Registry, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var seen []string
	metrics := prometheus.NewRegistry()
	r, err := Start(Config{
		Self: id(name), Network: h.port(name), Record: h.record(t, name, epoch), Keys: h.key, Metrics: metrics,
		OnHint: func(hint Hint) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, hint.Name+" "+string(hint.State))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, metrics, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
}

func states(r *Roster) string {
	var out []string
	for _, h := range r.Hints() {
		out = append(out, h.Name+" "+string(h.State))
	}
	return strings.Join(out, ", ")
}

// wait gives virtual time and lets everything settle.
func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestThreeNodesFindEachOtherAndNoticeACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, "n1", "n2", "n3")
		n1, _, _ := h.start(t, "n1", 1)
		n2, _, _ := h.start(t, "n2", 1)
		n3, _, _ := h.start(t, "n3", 1)
		for _, r := range []*Roster{n2, n3} {
			if n, err := r.Join(t.Context(), id("n1")); n != 1 || err != nil {
				t.Fatalf("join: %d, %v", n, err)
			}
		}
		wait(5 * time.Second)
		for r, want := range map[*Roster]string{n1: "n2 alive, n3 alive", n2: "n1 alive, n3 alive", n3: "n1 alive, n2 alive"} {
			if got := states(r); got != want {
				t.Errorf("%s sees %q, want %q", r.name, got, want)
			}
		}
		if hint := n2.Hints()[1]; hint.ID != id("n3") || hint.Addr.Port() != 7001 || hint.Epoch != 1 || n1.HealthScore() != 0 {
			t.Errorf("hint %+v, health %d", hint, n1.HealthScore())
		}

		h.setDown("n3", true) // as a crash looks from outside
		wait(30 * time.Second)
		if a, b := states(n1), states(n2); a != "n2 alive, n3 failed" || b != "n1 alive, n3 failed" {
			t.Errorf("after the crash: %q and %q", a, b)
		}
		n3.Close()
		h.setDown("n3", false)
		n3, _, _ = h.start(t, "n3", 2)
		if _, err := n3.Join(t.Context(), id("n1"), id("n2")); err != nil {
			t.Fatal(err)
		}
		wait(10 * time.Second)
		for _, r := range []*Roster{n1, n2} {
			if got := r.Hints()[1]; got.State != Alive || got.Epoch != 2 {
				t.Errorf("%s after its return: %+v", r.name, got)
			}
		}
		if err := n3.Leave(); err != nil {
			t.Error(err)
		}
		wait(5 * time.Second)
		if got := states(n1); got != "n2 alive, n3 left" {
			t.Errorf("after a leave: %q", got)
		}
		for _, r := range []*Roster{n1, n2, n3} {
			r.Close()
		}
		wait(time.Minute) // memberlist's last timers
	})
}

// TestNobodyIsEvictedByAForgery has an authenticated member claim the others
// dead in every way the protocol knows. Without the filter the first of these
// evicts a node for good.
func TestNobodyIsEvictedByAForgery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, "n1", "n2", "n3")
		n1, metrics, seen1 := h.start(t, "n1", 1)
		n2, _, _ := h.start(t, "n2", 1)
		n3, _, seen3 := h.start(t, "n3", 1)
		for _, r := range []*Roster{n2, n3} {
			if _, err := r.Join(t.Context(), id("n1")); err != nil {
				t.Fatal(err)
			}
		}
		wait(5 * time.Second)
		for round := range 20 {
			for _, victim := range []string{"n1", "n3"} {
				for _, to := range []string{"n1", "n3"} {
					h.inject("n2", to, packet(encode(msgDead, dead{math.MaxUint32, victim, "n2"})))
					h.inject("n2", to, packet(encode(msgDead, dead{math.MaxUint32, victim, victim})))
					h.inject("n2", to, packet(encode(msgDead, dead{uint32(round * 10), victim, victim})))
					h.inject("n2", to, packet(encode(msgDead, dead{uint32(round*60 + 60), victim, "n2"})))
					h.inject("n2", to, packet(encode(msgSuspect, suspect{math.MaxUint32, victim, "n2"})))
					h.inject("n2", to, packet(append([]byte{msgUser}, encode(serfLeave, intent{LTime: 1 << 30, Node: victim, Prune: true})...)))
				}
			}
			wait(2 * time.Second)
		}
		wait(time.Minute)
		if a, b, c := states(n1), states(n2), states(n3); a != "n2 alive, n3 alive" || b != "n1 alive, n3 alive" || c != "n1 alive, n2 alive" {
			t.Errorf("%q, %q, %q", a, b, c)
		}
		for _, seen := range [][]string{seen1(), seen3()} {
			for _, hint := range seen {
				if strings.HasSuffix(hint, string(Failed)) || strings.HasSuffix(hint, string(Left)) {
					t.Errorf("a forgery had its way for a while: %q", seen)
				}
			}
		}
		families, err := metrics.Gather()
		if err != nil || len(families) == 0 {
			t.Errorf("nothing counted: %v", err)
		}
		for _, r := range []*Roster{n1, n2, n3} {
			r.Close()
		}
		wait(time.Minute)
	})
}

// A node that cannot hear anybody accuses nobody, and does not take the others for
// failed; whoever it still misses when it is well again, it says.
func TestWhoDoubtsItselfKeepsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, "n1", "n2", "n3", "n4")
		var all []*Roster
		seen := map[string]func() []string{}
		for _, name := range h.names {
			r, _, hints := h.start(t, name, 1)
			if name != "n1" {
				if _, err := r.Join(t.Context(), id("n1")); err != nil {
					t.Fatal(err)
				}
			}
			all, seen[name] = append(all, r), hints
		}
		wait(5 * time.Second)
		h.setDeaf("n1", true) // what it says still goes out
		for range 60 {
			wait(time.Second)
			if all[0].doubts.Load() && strings.Contains(states(all[0]), string(Failed)) {
				t.Fatalf("n1 doubts itself, and sees %q", states(all[0]))
			}
		}
		if !all[0].doubts.Load() {
			t.Fatal("n1 does not doubt itself: this test shows nothing")
		}
		h.setDeaf("n1", false)
		h.setDown("n4", true)
		wait(10 * time.Minute) // the others tried to reach it, or n4, every 30 s: by chance
		if got := states(all[0]); got != "n2 alive, n3 alive, n4 failed" || all[0].HealthScore() > 0 {
			t.Errorf("n1 sees %q with score %d when it is well again", got, all[0].HealthScore())
		}
		for _, name := range []string{"n2", "n3"} {
			for _, hint := range seen[name]() {
				if hint != "n1 failed" && hint != "n4 failed" && strings.HasSuffix(hint, "failed") {
					t.Errorf("%s believed an accusation: %q", name, seen[name]())
				}
			}
		}
		for _, r := range all {
			r.Close()
		}
		wait(time.Minute)
	})
}

func TestMutedMessages(t *testing.T) {
	doubting := false
	counted := 0
	f := newFilter("n1", label, nil, func(string) bool { return true }, nil, func(string) { counted++ })
	f.doubt = func() bool { return doubting }
	own, others := encode(msgSuspect, suspect{1, "n2", "n1"}), encode(msgSuspect, suspect{1, "n2", "n3"})
	left := encode(msgDead, dead{1, "n1", "n1"})
	both := join(label, [][]byte{own, others, left})
	table := pushPull{states: []nodeState{{Name: "n2", State: stateSuspect}, {Name: "n3"}, {Name: "n1", State: stateLeft}}}.encode()
	if got, _ := f.sent(time.Now(), "n3", both); !bytes.Equal(got, both) || !bytes.Equal(f.told(table), table) {
		t.Error("a healthy node is muted")
	}
	doubting = true
	if got, _ := f.sent(time.Now(), "n3", both); !bytes.Equal(got, join(label, [][]byte{others, left})) {
		t.Errorf("what is sent: %x", got)
	}
	if got, _ := f.sent(time.Now(), "n3", packet(own)); got != nil {
		t.Errorf("what is sent: %x", got)
	}
	p, err := readPushPull(bytes.NewReader(f.told(table)[1:]))
	if err != nil || len(p.states) != 2 || p.states[0].Name != "n3" || p.states[1].Name != "n1" || counted != 3 {
		t.Errorf("what is told: %+v, %v; %d muted", p.states, err, counted)
	}
}

func TestWrongNamesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, "n1", "n2", "n3")
		n1, _, _ := h.start(t, "n1", 1)
		claim := func(from, name string, record []byte) {
			h.inject(from, "n1", packet(encode(msgAlive, alive{Incarnation: 1, Node: name, Meta: encodeTags(record), Vsn: versions})))
			wait(time.Second)
		}
		claim("n2", "n3", h.record(t, "n2", 1))
		claim("n2", "stranger", h.record(t, "n2", 1))
		claim("n2", "n3", h.record(t, "n3", 9)) // a certificate n1 does not know
		forged, err := SignRecord(h.keys["n2"], Record{id("n3"), netip.MustParseAddrPort("10.0.0.1:1"), 1, certHash("n3", 1)})
		if err != nil {
			t.Fatal(err)
		}
		claim("n2", "n3", forged)
		if got := states(n1); got != "" {
			t.Errorf("n1 sees %q", got)
		}
		claim("n3", "n3", h.record(t, "n3", 9)) // from itself it will do
		claim("n2", "n2", h.record(t, "n2", 1))
		if got := states(n1); got != "n2 alive, n3 alive" {
			t.Errorf("n1 sees %q", got)
		}
		n1.Close()
		wait(time.Minute)
	})
}

func TestStartRefuses(t *testing.T) {
	h := newHub(t, "n1", "n2")
	p := h.port("n1")
	for name, cfg := range map[string]Config{
		"nothing":          {},
		"another's record": {Self: id("n1"), Network: p, Keys: h.key, Record: h.record(t, "n2", 1)},
		"no record":        {Self: id("n1"), Network: p, Keys: h.key},
		"no name":          {Self: id("n9"), Network: p, Keys: h.key, Record: h.record(t, "n1", 1)},
	} {
		if _, err := Start(cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v, want %v", name, err, ErrConfig)
		}
	}
}

func TestRecord(t *testing.T) {
	h := newHub(t, "n1", "n2")
	b := h.record(t, "n1", 1)
	r, err := OpenRecord(b, h.key)
	if err != nil || r.ID != id("n1") || len(b) > MaxRecord {
		t.Fatalf("%+v, %d bytes, %v", r, len(b), err)
	}
	if len(encodeTags(b)) > 512 {
		t.Errorf("tags of %d bytes", len(encodeTags(b)))
	}
	for i := range b {
		bad := slices.Clone(b)
		bad[i] ^= 1
		if _, err := OpenRecord(bad, h.key); err == nil {
			t.Errorf("byte %d does not matter", i)
		}
	}
	if _, err := OpenRecord(h.record(t, "n1", 9), h.key); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("unknown certificate: %v", err)
	}
	if _, err := OpenRecord(b, nil); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("no keys: %v", err)
	}
	long := spiffeid.RequireFromString("spiffe://" + label + "/node/" + strings.Repeat("n", 400))
	for name, r := range map[string]Record{
		"too long":   {long, netip.MustParseAddrPort("127.0.0.1:1"), 1, [32]byte{}},
		"no address": {id("n1"), netip.AddrPort{}, 1, [32]byte{}},
		"no epoch":   {id("n1"), netip.MustParseAddrPort("127.0.0.1:1"), 0, [32]byte{}},
		"no node":    {spiffeid.ID{}, netip.MustParseAddrPort("127.0.0.1:1"), 1, [32]byte{}},
	} {
		if _, err := SignRecord(h.keys["n1"], r); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v, want %v", name, err, ErrRecord)
		}
	}
}

func FuzzRecord(f *testing.F) {
	h := newHub(f, "n1")
	f.Add(h.record(f, "n1", 1))
	f.Fuzz(func(t *testing.T, in []byte) {
		if _, r, err := splitRecord(in); err == nil && (r.ID.IsZero() || !r.Addr.IsValid()) {
			t.Errorf("parsed %+v", r)
		}
	})
}
