package tpm

import (
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
)

// quoteLie is one change to an honest quote and to what its verifier expects.
type quoteLie struct {
	boot     func(f *forger) // before anything is quoted
	attest   func(f *forger, a *attests)
	raw      func(name string, b []byte) []byte // before the AK signs
	evidence func(f *forger, e *Evidence)
	bytes    func(b []byte) []byte
	want     func(f *forger, w *Expected)
	inMemory bool // the node key is
}

func (f *forger) quote(t testing.TB, l quoteLie) (QuoteClaims, error) {
	t.Helper()
	if l.boot != nil {
		l.boot(f)
	}
	node := pkixOf(t, f.node.Public())
	want := Expected{AK: &f.ak.PublicKey, NodeKey: sha256.Sum256(node), Qualifying: [32]byte{1}, BootLog: f.bootLog, Resets: 4}
	log := sha256.Sum256(f.bootLog)
	ch := Challenge{PCRs: quotedPCRs}
	a := f.honest(t, f.honestHello(t), ch, quoteData(want.Qualifying, log, node))
	if l.attest != nil {
		l.attest(f, a)
	}
	signed := func(name string, a tpm2.TPMSAttest) Signed {
		raw := tpm2.Marshal(a)
		if l.raw != nil {
			raw = l.raw(name, raw)
		}
		return f.sign(t, raw)
	}
	e := Evidence{Quote: signed("quote", a.quote), PCRs: f.values(ch), BootLog: log, Starts: signed("starts", a.starts), Epoch: signed("epoch", a.epoch), NodeKey: node}
	if !l.inMemory {
		e.Node = signed("node-key", a.node)
	}
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
	if !c.Resident || !c.NodeKey.Equal(f.node.Public()) || c.Counters != f.counters {
		t.Errorf("claims resident %v, counters %+v", c.Resident, c.Counters)
	}
	if c, err := f.quote(t, quoteLie{inMemory: true}); err != nil || c.Resident || !c.NodeKey.Equal(f.node.Public()) || c.Counters != f.counters {
		t.Errorf("key in memory: resident %v, counters %+v, %v", c.Resident, c.Counters, err)
	}
	// After a reset the clock may say less.
	_, err = f.quote(t, quoteLie{want: func(_ *forger, w *Expected) { w.Previous = &QuoteClaims{ResetCount: 3, Clock: time.Hour} }})
	if err != nil {
		t.Error(err)
	}
}

func quoteLies(t testing.TB) map[string]map[string]quoteLie {
	stranger := newKey(t, elliptic.P256())
	quote := func(change func(q *tpm2.TPMSQuoteInfo)) func(*forger, *attests) {
		return func(_ *forger, a *attests) {
			info, err := a.quote.Attested.Quote()
			if err != nil {
				t.Fatal(err)
			}
			change(info)
			setQuote(&a.quote, *info)
		}
	}
	out := map[string]map[string]quoteLie{
		"evidence-format": {
			"nothing":         {bytes: func([]byte) []byte { return nil }},
			"trailing":        {bytes: func(b []byte) []byte { return append(b, 0) }},
			"oversized":       {bytes: func([]byte) []byte { return make([]byte, MaxEvidence+1) }},
			"few PCRs":        {evidence: func(_ *forger, e *Evidence) { e.PCRs = e.PCRs[32:] }},
			"no signature":    {evidence: func(_ *forger, e *Evidence) { e.Quote.Signature = nil }},
			"no counter":      {evidence: func(_ *forger, e *Evidence) { e.Starts = Signed{} }},
			"half a node key": {evidence: func(_ *forger, e *Evidence) { e.Node.Signature = nil }},
			"huge structure":  {evidence: func(_ *forger, e *Evidence) { e.Quote.Attest = make([]byte, maxAttest+1) }},
			"no node key":     {evidence: func(_ *forger, e *Evidence) { e.NodeKey = nil }},
			"node key P-384":  {evidence: func(_ *forger, e *Evidence) { e.NodeKey = pkixOf(t, newKey(t, elliptic.P384()).Public()) }},
		},
		"ak-key": {
			"none":  {want: func(_ *forger, w *Expected) { w.AK = nil }},
			"P-384": {want: func(_ *forger, w *Expected) { w.AK = &newKey(t, elliptic.P384()).PublicKey }},
		},
		"node-key": {
			"another key":           {evidence: func(_ *forger, e *Evidence) { e.NodeKey = pkixOf(t, stranger.Public()) }},
			"another key in memory": {inMemory: true, evidence: func(_ *forger, e *Evidence) { e.NodeKey = pkixOf(t, stranger.Public()) }},
			"none is endorsed":      {want: func(_ *forger, w *Expected) { w.NodeKey = [32]byte{} }},
		},
		"ak-hierarchy": {
			"none": {attest: func(_ *forger, a *attests) { a.quote.QualifiedSigner.Buffer = nil }},
			"signs whatever it is given": {attest: func(f *forger, a *attests) {
				a.epoch.QualifiedSigner.Buffer = qualifiedName(nameOfPublic(public(t, residentKey, f.ak.Public())))
			}},
		},
		"one-boot": {
			"counter of before":  {attest: func(_ *forger, a *attests) { a.starts.ClockInfo.ResetCount-- }},
			"node key of before": {attest: func(_ *forger, a *attests) { a.node.ClockInfo.RestartCount++ }},
		},
		"quote-bank": {
			"SHA-1": {attest: quote(func(q *tpm2.TPMSQuoteInfo) { q.PCRSelect.PCRSelections[0].Hash = tpm2.TPMAlgSHA1 })},
			"none":  {attest: quote(func(q *tpm2.TPMSQuoteInfo) { q.PCRSelect.PCRSelections = nil })},
		},
		"quote-selection": {"narrowed": {attest: quote(func(q *tpm2.TPMSQuoteInfo) { q.PCRSelect = selection(quotedPCRs[:8]) })}},
		"quote-digest": {
			"forged PCR": {evidence: func(_ *forger, e *Evidence) { e.PCRs[0]++ }},
			"none":       {attest: quote(func(q *tpm2.TPMSQuoteInfo) { q.PCRDigest.Buffer = nil })},
		},
		"node-key-name": {"another key": {attest: func(_ *forger, a *attests) {
			setCertify(&a.node, nameOfPublic(public(t, residentKey, stranger.Public())))
		}}, "movable": {attest: func(f *forger, a *attests) {
			setCertify(&a.node, nameOfPublic(public(t, residentKey, f.node.Public(), setAttributes(func(a *tpm2.TPMAObject) { a.FixedTPM = false }))))
		}}},
		"counter-attributes": {"swapped": {attest: func(_ *forger, a *attests) { a.starts, a.epoch = a.epoch, a.starts }}},
		"quote-reset": {
			"older than the endorsement": {want: func(_ *forger, w *Expected) { w.Resets = 5 }},
			"fewer resets":               {want: func(_ *forger, w *Expected) { w.Previous = &QuoteClaims{ResetCount: 5} }},
			"fewer restarts":             {want: func(_ *forger, w *Expected) { w.Previous = &QuoteClaims{ResetCount: 4, RestartCount: 1} }},
		},
		"quote-clock": {"back": {want: func(_ *forger, w *Expected) { w.Previous = &QuoteClaims{ResetCount: 4, Clock: 2 * time.Second} }}},
		"counters": {
			"fewer starts": {want: func(f *forger, w *Expected) {
				w.Previous = &QuoteClaims{Counters: Counters{Starts: f.counters.Starts + 1}}
			}},
			"earlier epoch": {want: func(f *forger, w *Expected) {
				w.Previous = &QuoteClaims{Counters: Counters{Epoch: f.counters.Epoch + 1}}
			}},
		},
		"boot-log-hash": {
			"none":    {want: func(_ *forger, w *Expected) { w.BootLog = nil }},
			"another": {want: func(_ *forger, w *Expected) { w.BootLog = eventlog.Boot{CommandLine: "other"}.Log() }},
		},
		"boot-log-format": {"none": {boot: func(f *forger) { f.bootLog = []byte("no log") }}},
		"boot-log-replay": {"rootkit": {boot: func(f *forger) { f.extend(8, [32]byte{1}) }}},
		"boot-log-capped": {"no separators": {boot: func(f *forger) {
			var w eventlog.Writer
			w.Measure(8, 13, []byte{0, 0, 0, 0})
			f.bootLog, f.pcrs = w.Bytes(), map[int][32]byte{}
			f.extend(8, sha256.Sum256([]byte{0, 0, 0, 0}))
		}}},
	}
	for i, name := range []string{"quote", "node-key", "starts", "epoch"} {
		of := func(e *Evidence) *Signed { return []*Signed{&e.Quote, &e.Node, &e.Starts, &e.Epoch}[i] }
		kind := func(a *attests) *tpm2.TPMSAttest {
			return []*tpm2.TPMSAttest{&a.quote, &a.node, &a.starts, &a.epoch}[i]
		}
		out[name+"-signature"] = map[string]quoteLie{
			"flipped":    {evidence: func(_ *forger, e *Evidence) { of(e).Attest[20] ^= 1 }},
			"another AK": {evidence: func(_ *forger, e *Evidence) { *of(e) = (&forger{ak: stranger}).sign(t, of(e).Attest) }},
		}
		out[name+"-magic"] = map[string]quoteLie{
			"external": {raw: only(name, func(b []byte) []byte { b[0] = 0; return b })},
			"empty":    {raw: only(name, func([]byte) []byte { return nil })},
		}
		out[name+"-type"] = map[string]quoteLie{
			"time":     {raw: only(name, func(b []byte) []byte { binary.BigEndian.PutUint16(b[4:], 0x8019); return b })},
			"trailing": {raw: only(name, func(b []byte) []byte { return append(b, 0) })},
		}
		out[name+"-nonce"] = map[string]quoteLie{
			"none":  {attest: func(_ *forger, a *attests) { kind(a).ExtraData.Buffer = nil }},
			"stale": {attest: func(_ *forger, a *attests) { kind(a).ExtraData.Buffer = make([]byte, 32) }},
		}
	}
	// What all are bound to shows in the first one read.
	out["quote-nonce"]["another beacon"] = quoteLie{want: func(_ *forger, w *Expected) { w.Qualifying[0]++ }}
	out["quote-nonce"]["another log"] = quoteLie{evidence: func(_ *forger, e *Evidence) { e.BootLog[0]++ }}
	out["quote-nonce"]["another key in memory, endorsed"] = quoteLie{inMemory: true,
		evidence: func(_ *forger, e *Evidence) { e.NodeKey = pkixOf(t, stranger.Public()) },
		want:     func(_ *forger, w *Expected) { w.NodeKey = sha256.Sum256(pkixOf(t, stranger.Public())) },
	}
	return out
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
	want := Expected{AK: &forged.ak.PublicKey, NodeKey: sha256.Sum256(pkixOf(f, forged.node.Public())), Qualifying: [32]byte{1}, BootLog: forged.bootLog}
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
