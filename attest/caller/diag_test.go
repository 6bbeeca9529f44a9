package caller

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func FuzzParseDiag(f *testing.F) {
	f.Add([]byte{})
	a := netip.MustParseAddrPort("127.0.0.1:80")
	f.Add(request(unix.AF_INET, 0, stateAny, a, a, 0))
	f.Add([]byte{20, 0, 0, 0, unix.NLMSG_DONE, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	msg := make([]byte, sizeHeader+sizeMsg+8)
	msg[0], msg[4], msg[sizeHeader], msg[sizeHeader+1] = byte(len(msg)), unix.SOCK_DIAG_BY_FAMILY, unix.AF_INET6, stateListn
	msg[sizeHeader+sizeMsg], msg[sizeHeader+sizeMsg+2], msg[sizeHeader+sizeMsg+4] = 5, attrV6Only, 1
	f.Add(msg)
	f.Fuzz(func(t *testing.T, b []byte) {
		all, _, err := parseDiag(b)
		if err != nil && all != nil {
			t.Error("sockets beside an error")
		}
		if len(all)*(sizeHeader+sizeMsg) > len(b) {
			t.Errorf("%d sockets in %d bytes", len(all), len(b))
		}
	})
}

func TestParseDiagError(t *testing.T) {
	enoent := []byte{20, 0, 0, 0, unix.NLMSG_ERROR, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff}
	if _, _, err := parseDiag(enoent); !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v, want ENOENT", err)
	}
}

func TestChooseListeners(t *testing.T) {
	at := func(addr string, v6, only bool, inode uint32) diagSocket {
		return diagSocket{local: netip.MustParseAddrPort(addr), listening: true, v6: v6, v6only: only, inode: inode}
	}
	exact, wild4, dual, only6 := at("127.0.0.1:80", false, false, 1), at("0.0.0.0:80", false, false, 2), at("[::]:80", true, false, 3), at("[::]:80", true, true, 4)
	for _, tc := range []struct {
		name, addr string
		all        []diagSocket
		want       []uint32
	}{
		{"exact before wildcard", "127.0.0.1:80", []diagSocket{wild4, exact, dual}, []uint32{1}},
		{"all wildcards", "127.0.0.2:80", []diagSocket{wild4, exact, dual}, []uint32{2, 3}},
		{"IPv6 only does not serve IPv4", "127.0.0.2:80", []diagSocket{wild4, only6}, []uint32{2}},
		{"IPv4 does not serve IPv6", "[::1]:80", []diagSocket{wild4, only6}, []uint32{4}},
		{"other port", "127.0.0.1:81", []diagSocket{wild4, exact, dual}, nil},
	} {
		got, err := choose(tc.all, netip.MustParseAddrPort(tc.addr))
		ids := inodes(got)
		if len(ids) != len(tc.want) || (err == nil) != (len(tc.want) > 0) {
			t.Errorf("%s: %v, %v; want %v", tc.name, ids, err, tc.want)
			continue
		}
		for i := range ids {
			if ids[i] != tc.want[i] {
				t.Errorf("%s: %v, want %v", tc.name, ids, tc.want)
			}
		}
	}
}

func TestCount(t *testing.T) {
	root, init, web, web2 := &Process{PID: 7}, &Process{PID: 1}, &Process{PID: 8, UID: 33}, &Process{PID: 9, UID: 33}
	for _, tc := range []struct {
		name      string
		all, want []*Process
	}{
		{"alone", []*Process{init}, []*Process{init}},
		{"master and workers", []*Process{root, web, web2}, []*Process{web, web2}},
		{"socket activation of a root service", []*Process{init, root}, []*Process{root}},
		{"nobody", nil, nil},
	} {
		got := count(tc.all)
		if len(got) != len(tc.want) {
			t.Errorf("%s: %v", tc.name, got)
			continue
		}
		for i := range got {
			if got[i] != tc.want[i] {
				t.Errorf("%s: %v", tc.name, got)
			}
		}
	}
}
