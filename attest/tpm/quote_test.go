package tpm

import (
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
)

// quoteLie is one change to an honest quote and to what its verifier expects.
type quoteLie struct {
	attest   func(f *forger, a *tpm2.TPMSAttest)
	raw      func(b []byte) []byte // before the AK signs
	evidence func(f *forger, e *Evidence)
	bytes    func(b []byte) []byte
	want     func(f *forger, w *Expected)
}

func (f *forger) quote(t testing.TB, l quoteLie) (QuoteClaims, error) {
	t.Helper()
	want := Expected{AK: &f.ak.PublicKey, Qualifying: [32]byte{1}, BootLog: f.bootLog, Resets: 4}
	log := sha256.Sum256(f.bootLog)
	ch := Challenge{PCRs: quotedPCRs}
	h := f.honestHello(t)
	a := f.honest(t, h, ch, quoteData(want.Qualifying, log)).quote
	if l.attest != nil {
		l.attest(f, &a)
	}
	raw := tpm2.Marshal(a)
	if l.raw != nil {
		raw = l.raw(raw)
	}
	e := Evidence{Quote: f.sign(t, raw), PCRs: f.values(ch), BootLog: log}
	if l.evidence != nil {
		l.evidence(f, &e)
	}
	b := marshal(t, e)
	if l.bytes != nil {
		b = l.bytes(b)
	}
	if l.want != nil {
		l.want(f, &want)
	}
	return VerifyQuote(b, want)
}

func TestQuote(t *testing.T) {
	f := newForger(t)
	before := &QuoteClaims{ResetCount: 4, Clock: time.Second}
	c, err := f.quote(t, quoteLie{want: func(_ *forger, w *Expected) { w.Previous = before }})
	if err != nil {
		t.Fatal(err)
	}
	if c.ResetCount != 4 || c.Clock != time.Second || !c.ClockSafe || len(c.PCRs) != 16 || len(c.Boot.CommandLines) != 1 {
		t.Errorf("claims %+v", c)
	}
	// After a reset the clock may say less.
	_, err = f.quote(t, quoteLie{want: func(_ *forger, w *Expected) { w.Previous = &QuoteClaims{ResetCount: 3, Clock: time.Hour} }})
	if err != nil {
		t.Error(err)
	}
}

func TestQuoteLies(t *testing.T) {
	stranger := newKey(t, elliptic.P256())
	set := func(change func(q *tpm2.TPMSQuoteInfo)) func(*forger, *tpm2.TPMSAttest) {
		return func(_ *forger, a *tpm2.TPMSAttest) {
			info, err := a.Attested.Quote()
			if err != nil {
				t.Fatal(err)
			}
			change(info)
			setQuote(a, *info)
		}
	}
	lies := map[string][]quoteLie{
		"evidence-format": {
			{bytes: func([]byte) []byte { return nil }},
			{bytes: func(b []byte) []byte { return append(b, 0) }},
			{bytes: func([]byte) []byte { return make([]byte, MaxEvidence+1) }},
			{evidence: func(_ *forger, e *Evidence) { e.PCRs = e.PCRs[32:] }},
			{evidence: func(_ *forger, e *Evidence) { e.Quote.Signature = nil }},
			{evidence: func(_ *forger, e *Evidence) { e.Quote.Attest = make([]byte, maxAttest+1) }},
		},
		"ak-key": {
			{want: func(_ *forger, w *Expected) { w.AK = nil }},
			{want: func(_ *forger, w *Expected) { w.AK = &newKey(t, elliptic.P384()).PublicKey }},
		},
		"quote-signature": {
			{want: func(_ *forger, w *Expected) { w.AK = &stranger.PublicKey }},
			{evidence: func(_ *forger, e *Evidence) { e.Quote.Attest[20] ^= 1 }},
		},
		"quote-magic": {
			{attest: func(_ *forger, a *tpm2.TPMSAttest) { a.Magic = 1 }},
			{raw: func([]byte) []byte { return nil }},
		},
		"quote-type": {
			{attest: func(_ *forger, a *tpm2.TPMSAttest) { setCertify(a, nameOfPublic([]byte{1})) }},
			{raw: func(b []byte) []byte { return append(b, 0) }},
		},
		"quote-nonce": {
			{want: func(_ *forger, w *Expected) { w.Qualifying[0]++ }},
			{attest: func(_ *forger, a *tpm2.TPMSAttest) { a.ExtraData.Buffer = nil }},
			{evidence: func(_ *forger, e *Evidence) { e.BootLog[0]++ }}, // the log is bound too
			{attest: func(_ *forger, a *tpm2.TPMSAttest) { a.ExtraData.Buffer = []byte{1} }},
		},
		"ak-hierarchy": {
			{attest: func(_ *forger, a *tpm2.TPMSAttest) { a.QualifiedSigner.Buffer = nil }},
			{attest: func(f *forger, a *tpm2.TPMSAttest) { // a key that signs whatever it is given
				name := nameOfPublic(public(t, residentKey, f.ak.Public()))
				a.QualifiedSigner.Buffer = qualifiedName(name)
			}},
		},
		"quote-bank": {
			{attest: set(func(q *tpm2.TPMSQuoteInfo) { q.PCRSelect.PCRSelections[0].Hash = tpm2.TPMAlgSHA1 })},
			{attest: set(func(q *tpm2.TPMSQuoteInfo) { q.PCRSelect.PCRSelections = nil })},
		},
		"quote-selection": {
			{attest: set(func(q *tpm2.TPMSQuoteInfo) { q.PCRSelect = selection(quotedPCRs[:8]) })},
		},
		"quote-digest": {
			{evidence: func(_ *forger, e *Evidence) { e.PCRs[0]++ }},
			{attest: set(func(q *tpm2.TPMSQuoteInfo) { q.PCRDigest.Buffer = nil })},
		},
		"quote-reset": {
			{want: func(_ *forger, w *Expected) { w.Resets = 5 }},
			{want: func(_ *forger, w *Expected) { w.Previous = &QuoteClaims{ResetCount: 5} }},
			{want: func(_ *forger, w *Expected) { w.Previous = &QuoteClaims{ResetCount: 4, RestartCount: 1} }},
		},
		"quote-clock": {
			{want: func(_ *forger, w *Expected) { w.Previous = &QuoteClaims{ResetCount: 4, Clock: 2 * time.Second} }},
		},
		"boot-log-hash": {
			{want: func(_ *forger, w *Expected) { w.BootLog = nil }},
			{want: func(_ *forger, w *Expected) { w.BootLog = eventlog.Boot{CommandLine: "other"}.Log() }},
		},
	}
	f := newForger(t)
	for rule, list := range lies {
		for i, l := range list {
			if c, err := f.quote(t, l); !refusedBy(err, rule) || c.PCRs != nil {
				t.Errorf("%s %d: %v", rule, i, err)
			}
		}
	}
	for rule, log := range map[string]func(f *forger){
		"boot-log-format": func(f *forger) { f.bootLog = []byte("no log") },
		"boot-log-replay": func(f *forger) { f.extend(8, [32]byte{1}) },
		"boot-log-capped": func(f *forger) {
			var w eventlog.Writer
			w.Measure(8, 13, []byte{0, 0, 0, 0})
			f.bootLog = w.Bytes()
			for p := range f.pcrs {
				f.pcrs[p] = [32]byte{}
			}
			f.extend(8, sha256.Sum256([]byte{0, 0, 0, 0}))
		},
	} {
		f := newForger(t)
		log(f)
		if _, err := f.quote(t, quoteLie{}); !refusedBy(err, rule) {
			t.Errorf("%s: %v", rule, err)
		}
		lies[rule] = nil
	}
	for _, rule := range QuoteRules() {
		if _, ok := lies[rule]; !ok {
			t.Errorf("no lie is told about %s", rule)
		}
	}
}

func refusedBy(err error, rule string) bool {
	var check *CheckError
	return errors.As(err, &check) && errors.Is(err, ErrRefused) && check.Check == rule
}

// Whatever is bound differently qualifies differently.
func TestEpochQualifier(t *testing.T) {
	seen := [][32]byte{
		EpochQualifier([32]byte{1}, "a", [32]byte{}), EpochQualifier([32]byte{2}, "a", [32]byte{}),
		EpochQualifier([32]byte{1}, "b", [32]byte{}), EpochQualifier([32]byte{1}, "a", [32]byte{1}), EpochQualifier([32]byte{1}, "", [32]byte{}),
	}
	slices.SortFunc(seen, func(a, b [32]byte) int { return slices.Compare(a[:], b[:]) })
	if len(slices.Compact(seen)) != 5 {
		t.Error("two of them are the same")
	}
}

func BenchmarkVerifyQuote(b *testing.B) {
	f := newForger(b)
	for b.Loop() {
		if _, err := f.quote(b, quoteLie{}); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzVerifyQuote(f *testing.F) {
	forged := newForger(f)
	want := Expected{AK: &forged.ak.PublicKey, Qualifying: [32]byte{1}, BootLog: forged.bootLog}
	var honest []byte
	if _, err := forged.quote(f, quoteLie{bytes: func(b []byte) []byte { honest = b; return b }}); err != nil {
		f.Fatal(err)
	}
	f.Add(honest)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := BootLogOf(b); err == nil && len(b) > MaxEvidence {
			t.Error("oversized evidence read")
		}
		if _, err := VerifyQuote(b, want); err == nil && !slices.Equal(b, honest) {
			t.Error("changed evidence accepted")
		} else if err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%v is no refusal", err)
		}
	})
}
