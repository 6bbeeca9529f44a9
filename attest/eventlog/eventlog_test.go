package eventlog

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// pcrsAfter is what a TPM that measured this boot would hold in PCRs 0 to 15.
func pcrsAfter(t testing.TB, log []byte) map[int][32]byte {
	t.Helper()
	events, err := Measurements(log)
	if err != nil {
		t.Fatal(err)
	}
	pcrs := map[int][32]byte{}
	for pcr := range 16 {
		pcrs[pcr] = [32]byte{}
	}
	for _, e := range events {
		pcrs[e.PCR] = extend(pcrs[e.PCR], e.Digest)
	}
	return pcrs
}

func extend(pcr [32]byte, digest Digest) [32]byte {
	return sha256.Sum256(append(pcr[:], digest[:]...))
}

func testCert(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestWrittenLog(t *testing.T) {
	for _, secure := range []bool{false, true} {
		boot := Boot{Firmware: "1", Loader: "grub", CommandLine: "root=/dev/vda ro"}
		if secure {
			boot.SecureBoot = testCert(t)
		}
		log := boot.Log()
		f, err := Verify(log, pcrsAfter(t, log))
		if err != nil {
			t.Fatal(err)
		}
		if f.SecureBoot != secure || f.SecureBootOff == secure {
			t.Errorf("secure boot %v: got on=%v off=%v (%s)", secure, f.SecureBoot, f.SecureBootOff, f.Untrusted.SecureBootReason)
		}
		want := "/vmlinuz root=/dev/vda ro"
		if !slices.Equal(f.CommandLines, []string{want}) || !slices.Equal(f.Strings, []string{"linux " + want, want}) {
			t.Errorf("command lines %q of texts %q (%s)", f.CommandLines, f.Strings, f.Untrusted.CommandReason)
		}
		if len(f.Explained) != 16 || len(f.Unexplained) != 0 {
			t.Errorf("explained %v, unexplained %v", f.Explained, f.Unexplained)
		}
	}
}

func TestRealLog(t *testing.T) {
	log, err := os.ReadFile("testdata/ubuntu-2104.log")
	if err != nil {
		t.Fatal(err)
	}
	f, err := Verify(log, pcrsAfter(t, log))
	if err != nil {
		t.Fatal(err)
	}
	if f.SecureBoot || !f.SecureBootOff {
		t.Errorf("secure boot was off: got on=%v off=%v", f.SecureBoot, f.SecureBootOff)
	}
	if len(f.CommandLines) != 1 || !strings.HasSuffix(f.CommandLines[0], "ro console=ttyS0 panic=-1") {
		t.Errorf("command lines %q (%s)", f.CommandLines, f.Untrusted.CommandReason)
	}
	if len(f.Digests[4]) < 3 {
		t.Errorf("PCR 4 has %d digests, want firmware, shim and loader", len(f.Digests[4]))
	}
}

func TestRefusals(t *testing.T) {
	log := Boot{CommandLine: "quiet"}.Log()
	var uncapped Writer
	for pcr := range 10 {
		if pcr != 3 {
			uncapped.Measure(pcr, typeSeparator, []byte{0, 0, 0, 0})
		}
	}
	tests := []struct {
		name string
		log  []byte
		pcrs func(map[int][32]byte)
		want error
	}{
		{"empty", nil, nil, ErrMalformed},
		{"truncated", log[:len(log)-3], nil, ErrMalformed},
		{"oversized", append(slices.Clone(log), make([]byte, MaxSize)...), nil, ErrTooLarge},
		{"SHA-1 header", bytes.Replace(log, []byte{1, 0, 0, 0, 0x0b, 0, 32, 0}, []byte{1, 0, 0, 0, 0x04, 0, 20, 0}, 1), nil, ErrMalformed},
		{"many algorithms", bytes.Replace(log, []byte{1, 0, 0, 0, 0x0b, 0, 32, 0}, []byte{0, 0, 1, 0, 0x0b, 0, 32, 0}, 1), nil, ErrMalformed},
		{"extended once more", log, func(p map[int][32]byte) { p[8] = extend(p[8], Digest{1}) }, ErrReplay},
		{"another boot", Boot{CommandLine: "init=/bin/sh"}.Log(), nil, ErrReplay},
		{"no event for a used PCR", log, func(p map[int][32]byte) { p[14] = [32]byte{1} }, ErrReplay},
		{"PCR not quoted", log, func(p map[int][32]byte) { delete(p, 7) }, ErrReplay},
		{"no separator", uncapped.Bytes(), func(p map[int][32]byte) {
			for k, v := range pcrsAfter(t, uncapped.Bytes()) {
				p[k] = v
			}
		}, ErrUncapped},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pcrs := pcrsAfter(t, log)
			if tt.pcrs != nil {
				tt.pcrs(pcrs)
			}
			f, err := Verify(tt.log, pcrs)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if f.Digests != nil || f.SecureBoot || f.CommandLines != nil {
				t.Errorf("facts from a refused log: %+v", f)
			}
		})
	}
}

func TestRunningSystemPCRs(t *testing.T) {
	log := Boot{}.Log()
	pcrs := pcrsAfter(t, log)
	pcrs[10], pcrs[15] = [32]byte{1}, [32]byte{2}
	f, err := Verify(log, pcrs)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.Unexplained, []int{10, 15}) {
		t.Errorf("unexplained %v, want [10 15]", f.Unexplained)
	}
}

// Types and labels are not authenticated: changing them leaves the replay as it
// is. Each lie may only remove facts.
func TestLies(t *testing.T) {
	const evil = "/vmlinuz init=/bin/sh"
	log := Boot{CommandLine: "init=/bin/sh"}.Log()
	tests := []struct {
		name     string
		old, new string
		strings  bool
	}{
		{"kernel called a module", "kernel_cmdline: " + evil, "module_cmdline: " + evil, true},
		{"kernel called a command", "kernel_cmdline: " + evil, "grub_cmd: " + evil, true},
		{"command called a kernel", "grub_cmd: linux " + evil, "kernel_cmdline: linux " + evil, true},
		{"text replaced", "kernel_cmdline: " + evil, "kernel_cmdline: /vmlinuz quiet", false},
		{"label removed", "kernel_cmdline: " + evil, evil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Verify(replaceData(t, log, tt.old, tt.new), pcrsAfter(t, log))
			if err != nil {
				t.Fatal(err)
			}
			if f.CommandLines != nil {
				t.Errorf("command lines %q from a lie", f.CommandLines)
			}
			if (f.Strings != nil) != tt.strings {
				t.Errorf("texts %q, want complete %v", f.Strings, tt.strings)
			}
		})
	}
	t.Run("secure boot events retyped", func(t *testing.T) {
		for _, kind := range []uint32{typeSeparator, typeIPL, typeAction, typeAuthority, noAction} {
			changed := slices.Clone(log)
			at := bytes.Index(changed, binary.LittleEndian.AppendUint32([]byte{7, 0, 0, 0}, typeVariable))
			binary.LittleEndian.PutUint32(changed[at+4:], kind)
			f, err := Verify(changed, pcrsAfter(t, log))
			if err == nil && f.SecureBoot {
				t.Errorf("type %#x: secure boot proven by a lie", kind)
			}
		}
	})
}

// replaceData swaps the data of one event and keeps its digest.
func replaceData(t *testing.T, log []byte, from, to string) []byte {
	t.Helper()
	size := func(s string) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(s)+1)), s+"\x00"...)
	}
	if !bytes.Contains(log, size(from)) {
		t.Fatalf("log has no event with data %q", from)
	}
	return bytes.Replace(log, size(from), size(to), 1)
}

// The largest log, of the smallest events, must not cost more than it is worth.
func TestLargestLog(t *testing.T) {
	var w Writer
	w.Measure(5, typeAction, nil)
	w.events = bytes.Repeat(w.events, (MaxSize-200)/len(w.events))
	log := w.Bytes()
	pcrs := map[int][32]byte{}
	for pcr := range 16 {
		pcrs[pcr] = [32]byte{1}
	}
	begin := time.Now()
	if _, err := Verify(log, pcrs); !errors.Is(err, ErrReplay) {
		t.Errorf("got %v, want %v", err, ErrReplay)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("%d bytes took %v", len(log), took)
	}
	t.Logf("%d bytes: %v", len(log), time.Since(begin))
	pcrs = pcrsAfter(t, log)
	begin = time.Now()
	if _, err := Verify(log, pcrs); !errors.Is(err, ErrUncapped) {
		t.Errorf("got %v, want %v", err, ErrUncapped)
	}
	t.Logf("%d bytes: %v", len(log), time.Since(begin))
}

func FuzzVerify(f *testing.F) {
	log := Boot{CommandLine: "quiet", SecureBoot: testCert(f)}.Log()
	f.Add(log)
	f.Add(Boot{}.Log())
	f.Add([]byte{})
	f.Add(log[:100])
	f.Fuzz(func(t *testing.T, log []byte) {
		events, err := Measurements(log)
		if err != nil {
			return
		}
		pcrs := map[int][32]byte{}
		for pcr := range 16 {
			pcrs[pcr] = [32]byte{}
		}
		for _, e := range events {
			if _, ok := pcrs[e.PCR]; ok {
				pcrs[e.PCR] = extend(pcrs[e.PCR], e.Digest)
			}
		}
		facts, err := Verify(log, pcrs)
		if err != nil && facts.Digests != nil {
			t.Error("facts beside an error")
		}
		if facts.SecureBoot && facts.SecureBootOff {
			t.Error("secure boot on and off")
		}
	})
}
