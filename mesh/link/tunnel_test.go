package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// only welcomes one ID.
func only(id spiffeid.ID) func(spiffeid.ID) error {
	return func(got spiffeid.ID) error {
		if got != id {
			return fmt.Errorf("wanted %s", id)
		}
		return nil
	}
}

// shopNode is a node that serves shop.east.mesh and hands its tunnels out.
func shopNode(t *testing.T, ca *authority, echo bool) (n *testNode, shop *x509svid.SVID, tunnels chan *Tunnel) {
	n = start(t, ca.svid(t, "/node/b", time.Hour), nil, ca)
	shop = ca.svid(t, "/workload/shop", time.Hour)
	tunnels = make(chan *Tunnel, 8)
	n.HandleTunnels(func(name string) (*x509svid.SVID, error) {
		if name != "shop.east.mesh" {
			return nil, errors.New("no such service")
		}
		return shop, nil
	}, func(ctx context.Context, tun *Tunnel) {
		tunnels <- tun
		for echo {
			s, err := tun.AcceptStream(ctx)
			if err != nil {
				return
			}
			go func() { defer s.Close(); _, _ = io.Copy(s, s) }()
		}
		<-tun.Done()
	})
	return n, shop, tunnels
}

func TestTunnel(t *testing.T) {
	ca := newAuthority(t, td)
	b, shop, tunnels := shopNode(t, ca, true)
	a := start(t, ca.svid(t, "/node/a", time.Hour), nil, ca)
	client := ca.svid(t, "/workload/client", time.Hour)
	near, err := a.DialTunnel(t.Context(), b.Addr(), client, "shop.east.mesh", only(shop.ID))
	if err != nil {
		t.Fatal(err)
	}
	far := <-tunnels
	if near.RemoteID != shop.ID || far.RemoteID != client.ID || near.LocalID != client.ID || far.LocalID != shop.ID || far.ServerName != "shop.east.mesh" {
		t.Errorf("near %+v\nfar %+v", near, far)
	}
	if !near.Remote[0].Equal(far.Local[0]) || !near.Local[0].Equal(far.Remote[0]) {
		t.Error("the two ends disagree on the certificates")
	}
	k1, err1 := near.Export("bailiwick test", []byte("ctx"))
	k2, err2 := far.Export("bailiwick test", []byte("ctx"))
	k3, _ := far.Export("bailiwick test", []byte("other"))
	if err1 != nil || err2 != nil || k1 != k2 || k1 == k3 || k1 == [32]byte{} {
		t.Errorf("exporter: %x %v, %x %v, %x", k1, err1, k2, err2, k3)
	}
	s, err := near.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(s, "hello")
	_ = s.CloseWrite()
	if got, err := io.ReadAll(s); string(got) != "hello" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if len(a.Peers())+len(b.Peers()) != 0 {
		t.Error("a tunnel was taken for a node connection")
	}
	far.Close("maintenance")
	<-near.Done()
	if err := near.Err(); !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "maintenance") {
		t.Errorf("near end: %v", err)
	}
}

func TestTunnelRefused(t *testing.T) {
	ca := newAuthority(t, td)
	b, shop, tunnels := shopNode(t, ca, false)
	a := start(t, ca.svid(t, "/node/a", time.Hour), nil, ca)
	client := ca.svid(t, "/workload/client", time.Hour)
	dial := func(svid *x509svid.SVID, name string, ok func(spiffeid.ID) error) error {
		tun, err := a.DialTunnel(t.Context(), b.Addr(), svid, name, ok)
		if err != nil {
			return err
		}
		<-tun.Done()
		return tun.Err()
	}
	tests := []struct {
		name string
		err  error
		text string
		got  error
	}{
		{"unknown name", ErrPeerRefused, "does not serve that name", dial(client, "bank.east.mesh", only(shop.ID))},
		{"other workload answers", ErrUnauthorized, "/workload/bank", dial(client, "shop.east.mesh", only(spiffeid.RequireFromString("spiffe://east.dev.example/workload/bank")))},
		{"nobody is welcome", ErrUnauthorized, "nothing here says who is", dial(client, "shop.east.mesh", nil)},
		{"node identity", ErrPeerRefused, "not welcome", dial(a.svid, "shop.east.mesh", only(shop.ID))},
		{"issuer identity", ErrPeerRefused, "not welcome", dial(ca.svid(t, "/spire/server", time.Hour), "shop.east.mesh", only(shop.ID))},
		{"foreign", ErrPeerRefused, "no trust bundle", dial(newAuthority(t, "west.dev.example").svid(t, "/workload/client", time.Hour), "shop.east.mesh", only(shop.ID))},
		{"own expired", ErrOwnExpired, "it ended", dial(ca.svid(t, "/workload/client", -time.Minute), "shop.east.mesh", only(shop.ID))},
	}
	for _, tt := range tests {
		if !errors.Is(tt.got, tt.err) || !strings.Contains(fmt.Sprint(tt.got), tt.text) {
			t.Errorf("%s: got %v\nwant %v with %q", tt.name, tt.got, tt.err, tt.text)
		}
	}
	if len(tunnels) != 0 {
		t.Errorf("%d refused tunnels were handed out", len(tunnels))
	}
}

func TestTunnelRecheck(t *testing.T) {
	ca := newAuthority(t, td)
	b, shop, tunnels := shopNode(t, ca, false)
	a := start(t, ca.svid(t, "/node/a", time.Hour), nil, ca)
	var mu sync.Mutex
	var verdict error
	say := func() error { mu.Lock(); defer mu.Unlock(); return verdict }
	set := func(err error) { mu.Lock(); defer mu.Unlock(); verdict = err }
	open := func() (near, far *Tunnel) {
		near, err := a.DialTunnel(t.Context(), b.Addr(), ca.svid(t, "/workload/client", time.Hour), "shop.east.mesh", func(spiffeid.ID) error { return say() })
		if err != nil {
			t.Fatal(err)
		}
		return near, <-tunnels
	}
	t.Run("authorize of the dialler", func(t *testing.T) {
		near, far := open()
		a.Recheck()
		set(errors.New("service moved"))
		defer set(nil)
		a.Recheck()
		<-far.Done()
		if near.Err() == nil || !errors.Is(far.Err(), ErrPeerRefused) || !strings.Contains(far.Err().Error(), "service moved") {
			t.Errorf("near %v, far %v", near.Err(), far.Err())
		}
	})
	t.Run("guard of the acceptor", func(t *testing.T) {
		near, far := open()
		far.Guard(say)
		b.Recheck()
		set(errors.New("its node is quarantined"))
		defer set(nil)
		b.Recheck()
		<-near.Done()
		if !errors.Is(near.Err(), ErrPeerRefused) || !strings.Contains(near.Err().Error(), "its node is quarantined") {
			t.Errorf("near %v", near.Err())
		}
	})
	_ = shop
}
