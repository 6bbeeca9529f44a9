package tpm_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

// A TPM quotes for years after one enrolment: across measurements, resets and what
// an attacker would like to show again.
func TestQuotesOfAChip(t *testing.T) {
	n := newNode(t)
	claims, err := n.attest(t, n.verifier())
	if err != nil {
		t.Fatal(err)
	}
	log := sha256.Sum256(n.bootLog)
	want := tpm.Expected{AK: claims.AKPub, NodeKey: sha256.Sum256(n.spki(t)), BootLog: n.bootLog, Resets: claims.ResetCount}
	quote := func(nonce byte) []byte {
		t.Helper()
		want.Qualifying = tpm.EpochQualifier([32]byte{nonce}, "spiffe://east.dev.example/node/n", [32]byte{2})
		e, err := n.keys.Quote(want.Qualifying, log)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	first := quote(1)
	got, err := tpm.VerifyQuote(first, want)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("evidence of %d bytes", len(first))
	if !got.Resident || !got.NodeKey.Equal(n.keys.Node().Public()) || got.Counters != claims.Counters {
		t.Errorf("resident %v, counters %+v, want %+v", got.Resident, got.Counters, claims.Counters)
	}
	if len(first) > tpm.MaxEvidence || got.ResetCount != claims.ResetCount || !slices.Equal(got.Boot.CommandLines, claims.Boot.CommandLines) {
		t.Errorf("%d bytes, claims %+v", len(first), got)
	}
	if h, err := tpm.BootLogOf(first); err != nil || h != log {
		t.Errorf("names log %x, %v", h, err)
	}
	want.Previous = &got
	second := quote(2)
	if _, err := tpm.VerifyQuote(second, want); err != nil {
		t.Fatal(err)
	}
	_, err = tpm.VerifyQuote(first, want)
	wantCheck(t, err, "quote-nonce")

	if _, err := n.device.BumpEpoch(); err != nil {
		t.Fatal(err)
	}
	if grown, err := tpm.VerifyQuote(quote(3), want); err != nil || grown.Counters.Epoch != got.Counters.Epoch+1 {
		t.Errorf("after a new epoch: %+v, %v", grown.Counters, err)
	}

	if err := n.device.Extend(8, [32]byte{9}); err != nil {
		t.Fatal(err)
	}
	_, err = tpm.VerifyQuote(quote(4), want)
	wantCheck(t, err, "boot-log-replay")
}

const recordedQuote = "testdata/quote.json"

// TestRecordedQuote keeps the format of evidence from changing unnoticed.
func TestRecordedQuote(t *testing.T) {
	type recorded struct {
		AK, NodeKey, Evidence, BootLog []byte
		Qualifying                     [32]byte
		CommandLine                    string
	}
	if *update {
		n := newNode(t, maker.Booting(eventlog.Boot{CommandLine: "recorded"}))
		claims, err := n.attest(t, n.verifier())
		if err != nil {
			t.Fatal(err)
		}
		r := recorded{BootLog: n.bootLog, CommandLine: "/vmlinuz recorded"}
		r.Qualifying = tpm.EpochQualifier([32]byte{1}, "spiffe://east.dev.example/node/n", [32]byte{2})
		if r.Evidence, err = n.keys.Quote(r.Qualifying, sha256.Sum256(n.bootLog)); err != nil {
			t.Fatal(err)
		}
		r.NodeKey = n.spki(t)
		if r.AK, err = x509.MarshalPKIXPublicKey(claims.AKPub); err != nil {
			t.Fatal(err)
		}
		b, err := json.MarshalIndent(r, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(recordedQuote, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(recordedQuote)
	if err != nil {
		t.Fatal(err)
	}
	var r recorded
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKIXPublicKey(r.AK)
	if err != nil {
		t.Fatal(err)
	}
	want := tpm.Expected{AK: key.(*ecdsa.PublicKey), NodeKey: sha256.Sum256(r.NodeKey), Qualifying: r.Qualifying, BootLog: r.BootLog}
	c, err := tpm.VerifyQuote(r.Evidence, want)
	if err != nil || !slices.Equal(c.Boot.CommandLines, []string{r.CommandLine}) {
		t.Fatalf("%+v, %v", c, err)
	}
	if got := tpm.EpochQualifier([32]byte{1}, "spiffe://east.dev.example/node/n", [32]byte{2}); got != r.Qualifying {
		t.Errorf("qualifying data is now %x", got)
	}
	for i := range r.Evidence {
		changed := slices.Clone(r.Evidence)
		changed[i] ^= 1 << (i % 8)
		if _, err := tpm.VerifyQuote(changed, want); err == nil {
			t.Errorf("byte %d changed, accepted", i)
		}
	}
}

// A node key in memory is attested by a real exchange.
func TestKeyInMemoryOfAChip(t *testing.T) {
	n := newNode(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	by, err := n.keys.InMemory(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	hello, err := by.Hello(n.feed, n.bootLog)
	if err != nil {
		t.Fatal(err)
	}
	session, err := n.verifier().Begin(time.Now(), hello)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := by.Prove(hello, session.Challenge(), n.exporter, n.spki(t), n.bootLog); !errors.Is(err, tpm.ErrChallenge) {
		t.Errorf("a CSR for another key: %v", err)
	}
	proof, err := by.Prove(hello, session.Challenge(), n.exporter, spki, n.bootLog)
	if err != nil {
		t.Fatal(err)
	}
	c, err := session.Finish(time.Now(), proof, n.exporter, spki)
	if err != nil || c.Resident || !c.NodeKey.Equal(key.Public()) {
		t.Errorf("resident %v, %v", c.Resident, err)
	}
	evidence, err := by.Quote([32]byte{1}, sha256.Sum256(n.bootLog))
	if err != nil {
		t.Fatal(err)
	}
	q, err := tpm.VerifyQuote(evidence, tpm.Expected{AK: c.AKPub, NodeKey: sha256.Sum256(spki), BootLog: n.bootLog, Qualifying: [32]byte{1}})
	if err != nil || q.Resident || !q.NodeKey.Equal(key.Public()) || q.Counters != c.Counters {
		t.Errorf("quote: resident %v, counters %+v, %v", q.Resident, q.Counters, err)
	}
}
