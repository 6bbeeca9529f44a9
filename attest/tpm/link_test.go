package tpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// busy is a TPM that answers with codes before it answers.
type busy struct {
	codes []tpm2.TPMRC
	calls int
}

func answer(rc tpm2.TPMRC) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 1, 0, 0, 0, headerSize}, uint32(rc))
}

func (b *busy) hold() (func(), error) { return func() {}, nil }
func (b *busy) Close() error          { return nil }
func (b *busy) Send([]byte) ([]byte, error) {
	b.calls++
	if b.calls <= len(b.codes) {
		return answer(b.codes[b.calls-1]), nil
	}
	return answer(0), nil
}

func TestResend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &busy{codes: []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting}}
		if got, err := (resender{b, "fake"}).Send(nil); err != nil || responseCode(got) != 0 || b.calls != 4 {
			t.Errorf("after %d calls: %x, %v", b.calls, got, err)
		}
		b = &busy{codes: []tpm2.TPMRC{tpm2.TPMRCLockout}}
		if got, err := (resender{b, "fake"}).Send(nil); err != nil || responseCode(got) != tpm2.TPMRCLockout || b.calls != 1 {
			t.Errorf("lockout: after %d calls: %x, %v", b.calls, got, err)
		}
		begin := time.Now()
		b = &busy{codes: make([]tpm2.TPMRC, 10000)}
		for i := range b.codes {
			b.codes[i] = tpm2.TPMRCRetry
		}
		got, err := (resender{b, "fake"}).Send(nil)
		if err != nil || responseCode(got) != tpm2.TPMRCRetry {
			t.Errorf("for ever busy: %x, %v", got, err)
		}
		if took := time.Since(begin); took < patience || took > 2*patience {
			t.Errorf("gave up after %v, want about %v", took, patience)
		}
	})
}

func TestExplain(t *testing.T) {
	for rc, want := range map[tpm2.TPMRC]error{
		tpm2.TPMRCLockout:           ErrLockout,
		tpm2.TPMRCBadAuth:           ErrHierarchyAuth,
		tpm2.TPMRCAuthFail | 0x0100: ErrHierarchyAuth, // of the first handle
	} {
		b := &busy{codes: []tpm2.TPMRC{rc}}
		d := &Device{path: "fake", link: resender{b, "fake"}}
		if _, err := d.BumpStarts(); !errors.Is(err, want) || !errors.Is(err, rc) {
			t.Errorf("code 0x%x: %v, want %v", uint32(rc), err, want)
		}
	}
}

// serve answers each connection on a unix socket or TCP port with b, once.
func serve(t *testing.T, network, address string, b []byte) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(conn, make([]byte, headerSize))
			_, _ = conn.Write(b)
			conn.Close()
		}
	}()
	return l.Addr().String()
}

func TestSocket(t *testing.T) {
	command := answer(0)
	socket := filepath.Join(t.TempDir(), "s")
	serve(t, "unix", socket, answer(7))
	for _, l := range []socketLink{{"unix", socket}, {"tcp", serve(t, "tcp", "127.0.0.1:0", answer(7))}} {
		release, err := l.hold()
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Send(command)
		if err != nil || responseCode(got) != 7 {
			t.Errorf("%s: %x, %v", l.network, got, err)
		}
		release()
	}
	huge := binary.BigEndian.AppendUint32([]byte{0x80, 1}, maxResponse+1)
	for name, bad := range map[string][]byte{
		"nothing": nil,
		"cut":     answer(7)[:5],
		"short":   {0x80, 1, 0, 0, 0, 3, 0, 0, 0, 0},
		"huge":    append(huge, 0, 0, 0, 0),
		"promise": {0x80, 1, 0, 0, 0, 200, 0, 0, 0, 0},
	} {
		path := serve(t, "tcp", "127.0.0.1:0", bad)
		if _, err := Open("tcp:" + path); !errors.Is(err, ErrDevice) {
			t.Errorf("%s: %v, want %v", name, err, ErrDevice)
		}
	}
	if !bytes.Equal(command, answer(0)) {
		t.Error("the command was changed")
	}
}

func TestSelected(t *testing.T) {
	if got := selected(selection([]uint8{0, 7, 23})); !bytes.Equal(got, []byte{0, 7, 23}) {
		t.Errorf("selected %v", got)
	}
	sha1 := selection([]uint8{1})
	sha1.PCRSelections[0].Hash = tpm2.TPMAlgSHA1
	if got := selected(sha1); got != nil {
		t.Errorf("selected %v of another bank", got)
	}
}
