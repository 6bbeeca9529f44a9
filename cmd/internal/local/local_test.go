package local

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// Both sorts of listener know their caller, by user and by selectors.
func TestCallerIsKnown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	socket, err := Unix(path, "")
	if err != nil {
		t.Fatal(err)
	}
	port, err := TCP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	for _, lis := range []net.Listener{socket, port} {
		client, err := net.Dial(lis.Addr().Network(), lis.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := lis.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c := From(WithCaller(t.Context(), server))
		if uid, gid := c.User(); uid != int64(os.Geteuid()) || gid != int64(os.Getegid()) {
			t.Errorf("%s: user %d, group %d", lis.Addr(), uid, gid)
		}
		if own := []string{"unix:uid:" + strconv.Itoa(os.Geteuid())}; !c.Shows(own) || c.Shows([]string{"unix:uid:4711"}) || c.Shows(nil) {
			t.Errorf("%s: shows %v", lis.Addr(), own)
		}
		if err := errors.Join(server.Close(), client.Close(), lis.Close()); err != nil {
			t.Error(err)
		}
		if c.Shows([]string{"unix:uid:" + strconv.Itoa(os.Geteuid())}) {
			t.Errorf("%s: a closed connection still shows something", lis.Addr())
		}
	}
}

func TestNobody(t *testing.T) {
	for _, c := range []*Caller{nil, {}, From(t.Context())} {
		if uid, gid := c.User(); uid != -1 || gid != -1 || c.Shows([]string{"unix:uid:0"}) {
			t.Errorf("nobody is user %d of group %d", uid, gid)
		}
	}
}

func TestGroup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	if _, err := Unix(path, "no such group"); !errors.Is(err, ErrGroup) {
		t.Errorf("got %v", err)
	}
	lis, err := Unix(path, strconv.Itoa(os.Getegid()))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Unix(path, ""); !errors.Is(err, ErrSocketBusy) {
		t.Errorf("a second time: %v", err)
	}
	if err := lis.Close(); err != nil {
		t.Error(err)
	}
}

func TestOnlyLoopback(t *testing.T) {
	if lis, err := TCP(netip.MustParseAddrPort("0.0.0.0:0")); err == nil {
		t.Error("listens for everybody", lis.Close())
	}
}
