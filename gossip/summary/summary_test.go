package summary

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

var t0 = time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)

func nodeID(region, name string) spiffeid.ID {
	return spiffeid.RequireFromString("spiffe://" + region + ".dev.example/node/" + name)
}

// fakeRoot stands for the record roots: its certificates are names in clear.
type fakeRoot struct{ keys map[string]*ecdsa.PrivateKey }

func (r *fakeRoot) cert(t testing.TB, id spiffeid.ID, epoch uint64) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	name := fmt.Sprintf("%s %d", id, epoch)
	if r.keys == nil {
		r.keys = map[string]*ecdsa.PrivateKey{}
	}
	if r.keys[name] == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		r.keys[name] = key
	}
	return r.keys[name], []byte(name)
}

func (r *fakeRoot) verify(cert []byte) (Key, error) {
	key, ok := r.keys[string(cert)]
	if !ok {
		return Key{}, errors.New("unknown certificate")
	}
	id, epoch, _ := strings.Cut(string(cert), " ")
	k := Key{ID: spiffeid.RequireFromString(id), Public: &key.PublicKey}
	fmt.Sscan(epoch, &k.Epoch)
	return k, nil
}

func content(region string) Content {
	return Content{
		Region: region, Nodes: map[string]int{"ok": 2, "quarantined": 1}, Frontier: [32]byte{1}, Policy: "rev-7", Behind: 2,
		Services: []Service{{
			Name: "shop", IDs: []spiffeid.ID{spiffeid.RequireFromString("spiffe://" + region + ".dev.example/workload/shop")},
			Owners:  []Owner{{nodeID(region, "n1"), netip.MustParseAddrPort("127.0.0.1:7001")}},
			Healthy: 1,
		}},
	}
}

func build(t testing.TB, root *fakeRoot, id spiffeid.ID, epoch, number uint64, c Content) []byte {
	t.Helper()
	key, cert := root.cert(t, id, epoch)
	raw, err := Build(key, cert, id, epoch, number, t0, c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestBuildAndVerify(t *testing.T) {
	var root fakeRoot
	raw := build(t, &root, nodeID("east", "n1"), 3, 9, content("east"))
	s, err := Verify(raw, root.verify)
	if err != nil {
		t.Fatal(err)
	}
	if s.Gateway != nodeID("east", "n1") || s.Epoch != 3 || s.Number != 9 || !s.At.Equal(t0) || s.Region != "east" ||
		s.Nodes["ok"] != 2 || s.Policy != "rev-7" || s.Behind != 2 || s.Members() != 3 || len(s.Services) != 1 || s.Services[0].Owners[0].Addr.Port() != 7001 {
		t.Errorf("got %+v", s)
	}
	if _, err := Verify(raw, nil); !errors.Is(err, ErrSigner) {
		t.Errorf("no keys: %v", err)
	}
	if _, err := Verify(make([]byte, MaxSize+1), root.verify); !errors.Is(err, ErrMalformed) {
		t.Errorf("oversized: %v", err)
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x40
		if _, err := Verify(bad, root.verify); err == nil {
			t.Errorf("byte %d does not matter", i)
		}
	}
}

func TestNobodySpeaksForAnother(t *testing.T) {
	var root fakeRoot
	east := nodeID("east", "n1")
	key, cert := root.cert(t, east, 1)

	foreign := content("west")
	if _, err := Build(key, cert, east, 1, 1, t0, foreign); !errors.Is(err, ErrForeign) {
		t.Errorf("foreign services: %v, want %v", err, ErrForeign)
	}
	for name, s := range map[string]Summary{
		"another node":  {Gateway: nodeID("east", "n2"), Epoch: 1, Number: 1},
		"another epoch": {Gateway: east, Epoch: 2, Number: 1},
	} {
		raw, err := Build(key, cert, s.Gateway, s.Epoch, s.Number, t0, content("east"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(raw, root.verify); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v, want %v", name, err, ErrForeign)
		}
	}
	_, other := root.cert(t, nodeID("east", "n2"), 1)
	raw, _ := Build(key, other, nodeID("east", "n2"), 1, 1, t0, content("east"))
	if _, err := Verify(raw, root.verify); !errors.Is(err, ErrSigner) {
		t.Errorf("another's certificate: %v, want %v", err, ErrSigner)
	}
}

// A region has no more nodes that are behind than nodes.
func TestBehindOfAll(t *testing.T) {
	var root fakeRoot
	key, cert := root.cert(t, nodeID("east", "n1"), 1)
	for behind, want := range map[int]error{0: nil, 3: nil, 4: ErrMalformed} {
		c := content("east")
		c.Behind = behind
		if _, err := Build(key, cert, nodeID("east", "n1"), 1, 1, t0, c); !errors.Is(err, want) {
			t.Errorf("%d of %d: %v, want %v", behind, c.Members(), err, want)
		}
	}
}

func TestTooLarge(t *testing.T) {
	var root fakeRoot
	key, cert := root.cert(t, nodeID("east", "n1"), 1)
	c := content("east")
	for i := range 200 {
		s := c.Services[0]
		s.Name = fmt.Sprintf("service-%03d", i)
		c.Services = append(c.Services, s)
	}
	if _, err := Build(key, cert, nodeID("east", "n1"), 1, 1, t0, c); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want %v", err, ErrTooLarge)
	}
}

func TestTracker(t *testing.T) {
	var root fakeRoot
	east, west := nodeID("east", "n1"), nodeID("west", "n1")
	tr := NewTracker(root.verify)
	add := func(raw []byte) error {
		t.Helper()
		_, _, err := tr.Add(t0, raw)
		return err
	}
	nine := build(t, &root, east, 3, 9, content("east"))
	for _, step := range []struct {
		name string
		raw  []byte
		want error
	}{
		{"first", nine, nil},
		{"again", nine, nil},
		{"signed again", build(t, &root, east, 3, 9, content("east")), nil},
		{"older", build(t, &root, east, 3, 8, content("east")), ErrOld},
		{"older epoch", build(t, &root, east, 2, 100, content("east")), ErrOld},
		{"another content", build(t, &root, east, 3, 9, Content{Region: "east"}), ErrContradiction},
		{"newer epoch", build(t, &root, east, 4, 1, content("east")), nil},
		{"another gateway", build(t, &root, west, 1, 1, content("west")), nil},
	} {
		if err := add(step.raw); !errors.Is(err, step.want) {
			t.Errorf("%s: %v, want %v", step.name, err, step.want)
		}
	}
	if got := tr.Entries(); len(got) != 2 || got[0].Epoch != 4 {
		t.Errorf("entries: %+v", got)
	}
	e, ok := tr.Region(west.TrustDomain())
	if !ok || e.Gateway != west || e.Age(t0.Add(time.Minute)) != time.Minute {
		t.Errorf("west: %+v %v", e, ok)
	}
	if r := tr.Regions(); len(r) != 2 || r[0].Region != "east" {
		t.Errorf("regions: %+v", r)
	}
	if _, ok := tr.Region(spiffeid.RequireTrustDomainFromString("none")); ok {
		t.Error("an unknown region has a summary")
	}
	if _, _, err := new(Tracker).Add(t0, nine); err == nil {
		t.Error("the zero tracker accepts")
	}
}

func FuzzVerify(f *testing.F) {
	var root fakeRoot
	raw := build(f, &root, nodeID("east", "n1"), 3, 9, content("east"))
	f.Add(raw)
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, in []byte) {
		if s, err := Verify(in, root.verify); err == nil && !bytes.Equal(s.Raw, in) {
			t.Error("verified, and kept other bytes")
		}
	})
}

func FuzzPayload(f *testing.F) {
	var root fakeRoot
	f.Add(payloadOf(build(f, &root, nodeID("east", "n1"), 3, 9, content("east"))))
	key, cert := root.cert(f, nodeID("east", "n1"), 1)
	f.Fuzz(func(t *testing.T, in []byte) {
		var p payload
		if statement.Unmarshal(in, &p) != nil {
			return
		}
		s, err := p.parse()
		if err != nil {
			return
		}
		raw, err := Build(crypto.Signer(key), cert, s.Gateway, s.Epoch, s.Number, s.At, s.Content)
		if err == nil && !bytes.Equal(payloadOf(raw), in) {
			t.Errorf("%x parses but is built as %x", in, payloadOf(raw))
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(nil, frameAck, []byte{0xa0}))
	f.Add(appendFrame(nil, frameStatement, []byte("statement")))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		kind, body, err := readFrame(bytes.NewReader(in))
		if err != nil {
			return
		}
		if out := appendFrame(nil, kind, body); !bytes.HasPrefix(in, out) {
			t.Errorf("%x reads as %x", in, out)
		}
		if kind == frameAck {
			parseAck(body, nodeID("east", "n1"))
		}
	})
}
