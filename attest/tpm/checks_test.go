package tpm

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
)

func TestHonest(t *testing.T) {
	f := newForger(t)
	c, err := f.run(t, lie{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Counters != f.counters || c.ResetCount != 4 || !c.ClockSafe || c.Clock != time.Second || c.EKSerial != "abc" {
		t.Errorf("claims %+v", c)
	}
	if !c.AKPub.Equal(f.ak.Public()) || !c.NodeKey.Equal(f.node.Public()) || !c.TrailKey.Equal(f.trail.Public()) || !c.FeedKey.Equal(f.feed.Public()) {
		t.Error("claims name other keys")
	}
}

func TestHonestEKs(t *testing.T) {
	f := newForger(t)
	p384 := newKey(t, elliptic.P384())
	tests := map[string]lie{
		"RSA": {hello: func(f *forger, h *Hello) {
			h.EKPub, h.EKCerts = public(t, tpm2.RSAEKTemplate, rsaKey().Public()), [][]byte{f.certificate(t, rsaKey().Public())}
		}},
		"P-384": {hello: func(f *forger, h *Hello) {
			h.EKPub, h.EKCerts = public(t, ekP384, p384.Public()), [][]byte{f.certificate(t, p384.Public())}
		}},
		"allowed without certificate": {
			hello:    func(f *forger, h *Hello) { h.EKCerts = nil },
			verifier: allowEK(t),
		},
		"oldest session": {late: MaxAge},
	}
	for name, l := range tests {
		if c, err := f.run(t, l); err != nil || c.EKChain == (name == "allowed without certificate") {
			t.Errorf("%s: chain %v, %v", name, c.EKChain, err)
		}
	}
}

func allowEK(t testing.TB) func(*forger, *Verifier) {
	return func(f *forger, v *Verifier) {
		v.Roots = nil
		v.AllowEK = map[[32]byte]bool{sha256.Sum256(pkixOf(t, f.ek.Public())): true}
	}
}

// setAttributes changes the attributes of a key before it is named.
func setAttributes(set func(*tpm2.TPMAObject)) func(*tpm2.TPMTPublic) {
	return func(p *tpm2.TPMTPublic) { set(&p.ObjectAttributes) }
}

// lies are the ways to fail each check. Every rule has at least one.
func lies(t testing.TB) map[string]map[string]lie {
	out := map[string]map[string]lie{
		"hello-format": {
			"garbage":       {helloRaw: func([]byte) []byte { return []byte("hello") }},
			"empty":         {helloRaw: func([]byte) []byte { return nil }},
			"oversized":     {helloRaw: func([]byte) []byte { return make([]byte, MaxHello+1) }},
			"trailing":      {helloRaw: func(b []byte) []byte { return append(b, 0) }},
			"many certs":    {hello: func(f *forger, h *Hello) { h.EKCerts = make([][]byte, maxEKCerts+1) }},
			"no AK":         {hello: func(f *forger, h *Hello) { h.AKPub = nil }},
			"AK spelling":   {hello: func(f *forger, h *Hello) { h.AKPub = append(h.AKPub, 0) }},
			"symmetric key": {hello: func(f *forger, h *Hello) { binary.BigEndian.PutUint16(h.NodePub, 0x25) }},
			"weak RSA EK": {hello: func(f *forger, h *Hello) {
				template := tpm2.RSAEKTemplate
				template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: bytes.Repeat([]byte{0xff}, 128)})
				h.EKPub = tpm2.Marshal(template)
			}},
			"EK off its curve": {hello: func(f *forger, h *Hello) { h.EKPub[len(h.EKPub)-1] ^= 1 }},
		},
		"ek-denied": {
			"denied": {verifier: func(f *forger, v *Verifier) {
				v.DenyEK = map[[32]byte]bool{sha256.Sum256(pkixOf(t, f.ek.Public())): true}
			}},
			"denied and allowed": {verifier: func(f *forger, v *Verifier) {
				v.DenyEK = map[[32]byte]bool{sha256.Sum256(pkixOf(t, f.ek.Public())): true}
				v.AllowEK = v.DenyEK
			}},
		},
		"ek-attributes": {
			"not restricted": {hello: func(f *forger, h *Hello) {
				h.EKPub = public(t, tpm2.ECCEKTemplate, f.ek.Public(), setAttributes(func(a *tpm2.TPMAObject) { a.Restricted = false }))
			}},
			"movable": {hello: func(f *forger, h *Hello) {
				h.EKPub = public(t, tpm2.ECCEKTemplate, f.ek.Public(), setAttributes(func(a *tpm2.TPMAObject) { a.FixedTPM = false }))
			}},
			"signs": {hello: func(f *forger, h *Hello) { h.EKPub = public(t, residentKey, f.ek.Public()) }},
		},
		"ek-chain": {
			"no certificate": {hello: func(f *forger, h *Hello) { h.EKCerts = nil }},
			"no roots":       {verifier: func(f *forger, v *Verifier) { *v = Verifier{} }},
			"other roots":    {verifier: func(f *forger, v *Verifier) { v.Roots = x509.NewCertPool() }},
			"not a cert":     {hello: func(f *forger, h *Hello) { h.EKCerts = [][]byte{{1}} }},
			"not for an EK": {hello: func(f *forger, h *Hello) {
				h.EKCerts = [][]byte{f.issue(t, &x509.Certificate{}, f.root, f.ek.Public()).Raw}
			}},
			"authority":       {hello: func(f *forger, h *Hello) { h.EKCerts = [][]byte{f.root.Raw} }},
			"bad chain":       {hello: func(f *forger, h *Hello) { h.EKCerts = append(h.EKCerts, []byte{1}) }},
			"another allowed": {hello: func(f *forger, h *Hello) { h.EKCerts = nil }, verifier: func(f *forger, v *Verifier) { v.AllowEK = map[[32]byte]bool{{}: true} }},
		},
		"node-key-form": {"key in memory is none": {hello: func(f *forger, h *Hello) { h.NodePub, h.NodeKey = nil, []byte{1} }}},
		"ek-key": {"certificate of another EK": {hello: func(f *forger, h *Hello) {
			h.EKCerts = [][]byte{f.certificate(t, newKey(t, elliptic.P256()).Public())}
		}}},
		"feed-key": {
			"garbage": {hello: func(f *forger, h *Hello) { h.FeedPub = []byte{1} }},
			"P-384":   {hello: func(f *forger, h *Hello) { h.FeedPub = pkixOf(t, newKey(t, elliptic.P384()).Public()) }},
		},
		"keys-distinct": {
			"feed is node": {hello: func(f *forger, h *Hello) { h.FeedPub = pkixOf(t, f.node.Public()) }},
			"trail is AK":  {hello: func(f *forger, h *Hello) { h.TrailPub = public(t, residentKey, f.ak.Public()) }},
		},
		"session-spent": {"replayed": {finish: func(s *Session, proof, exporter, spki []byte) {
			if _, err := s.Finish(s.state.began, proof, exporter, spki); err != nil {
				t.Errorf("first finish: %v", err)
			}
		}}},
		"session-expired": {
			"stale":      {late: MaxAge + time.Second},
			"clock back": {late: -time.Second},
		},
		"channel": {"no exporter": {exporter: []byte{1}}},
		"csr-key": {"another CSR": {spki: func(f *forger) []byte { return pkixOf(t, f.feed.Public()) }}},
		"proof-format": {
			"garbage":         {proofRaw: func([]byte) []byte { return []byte("proof") }},
			"oversized":       {proofRaw: func([]byte) []byte { return make([]byte, MaxProof+1) }},
			"trailing":        {proofRaw: func(b []byte) []byte { return append(b, 0) }},
			"short signature": {proof: func(f *forger, p *Proof) { p.Node.Signature = p.Node.Signature[1:] }},
			"huge structure":  {proof: func(f *forger, p *Proof) { p.Epoch.Attest = make([]byte, maxAttest+1) }},
			"few PCRs":        {proof: func(f *forger, p *Proof) { p.PCRs = p.PCRs[32:] }},
			"no HMAC":         {sealed: func(p *Proof) { p.MAC = nil }},
			"huge boot log":   {proof: func(f *forger, p *Proof) { p.BootLog = make([]byte, eventlog.MaxSize+1) }},
		},
		"ak-hierarchy": {
			"owner": {attest: func(f *forger, a *attests) {
				path := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHOwner)), nameOfPublic(public(t, attestationKey, f.ak.Public()))...))
				for _, s := range a.all() {
					s.QualifiedSigner.Buffer = append([]byte{0, 0x0b}, path[:]...)
				}
			}},
			"one of five": {attest: func(f *forger, a *attests) { a.epoch.QualifiedSigner.Buffer = nil }},
		},
		"one-boot": {
			"reset":    {attest: func(f *forger, a *attests) { a.starts.ClockInfo.ResetCount++ }},
			"restart":  {attest: func(f *forger, a *attests) { a.node.ClockInfo.RestartCount++ }},
			"firmware": {attest: func(f *forger, a *attests) { a.trail.FirmwareVersion++ }},
		},
		"quote-bank": {
			"SHA-1": {attest: func(f *forger, a *attests) {
				s := selection(quotedPCRs)
				s.PCRSelections[0].Hash = tpm2.TPMAlgSHA1
				setQuote(&a.quote, tpm2.TPMSQuoteInfo{PCRSelect: s})
			}},
			"two banks": {attest: func(f *forger, a *attests) {
				s := selection(quotedPCRs)
				s.PCRSelections = append(s.PCRSelections, s.PCRSelections[0])
				setQuote(&a.quote, tpm2.TPMSQuoteInfo{PCRSelect: s})
			}},
			"none": {attest: func(f *forger, a *attests) { setQuote(&a.quote, tpm2.TPMSQuoteInfo{}) }},
		},
		"quote-selection": {"narrowed": {attest: func(f *forger, a *attests) {
			digest := sha256.Sum256(make([]byte, 32))
			setQuote(&a.quote, tpm2.TPMSQuoteInfo{PCRSelect: selection([]uint8{15}), PCRDigest: tpm2.TPM2BDigest{Buffer: digest[:]}})
		}}},
		"quote-digest": {"forged PCR": {proof: func(f *forger, p *Proof) { p.PCRs[7*32] ^= 1 }}},
		"node-key-name": {"another key": {attest: func(f *forger, a *attests) {
			setCertify(&a.node, nameOfPublic(public(t, residentKey, newKey(t, elliptic.P256()).Public())))
		}}},
		"trail-key-name": {"node key twice": {attest: func(f *forger, a *attests) {
			setCertify(&a.trail, nameOfPublic(public(t, residentKey, f.node.Public())))
		}}},
		"counter-attributes": {
			"ordinary index": {attest: func(f *forger, a *attests) {
				pub := counterPublic(startsIndex)
				pub.Attributes.NT = tpm2.TPMNTOrdinary
				setCounter(t, &a.starts, pub, 7)
			}},
			"swapped": {attest: func(f *forger, a *attests) { a.starts, a.epoch = a.epoch, a.starts }},
			"half": {attest: func(f *forger, a *attests) {
				name, err := counterName(epochIndex)
				if err != nil {
					t.Fatal(err)
				}
				a.epoch.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestNV, &tpm2.TPMSNVCertifyInfo{IndexName: name, Offset: 4, NVContents: tpm2.TPM2BData{Buffer: make([]byte, 4)}})
			}},
		},
		"credential": {
			"not activated":     {sealed: func(p *Proof) { p.MAC = make([]byte, 32) }},
			"changed afterward": {sealed: func(p *Proof) { p.BootLog = append(slices.Clone(p.BootLog), 0) }},
		},
		"boot-log-hash": {"another log": {proof: func(f *forger, p *Proof) { p.BootLog = eventlog.Boot{}.Log() }}},
		"boot-log-format": {
			"none":    bootLog(nil),
			"garbage": bootLog(bytes.Repeat([]byte{0xff}, 4096)),
			"hostile": bootLog(bytes.Replace(eventlog.Boot{}.Log(), []byte{1, 0, 0, 0, 0x0b, 0, 32, 0}, []byte{255, 255, 0, 0, 0x0b, 0, 32, 0}, 1)),
		},
		"boot-log-replay": {
			"other boot": bootLog(eventlog.Boot{CommandLine: "init=/bin/sh"}.Log()),
			"rootkit": {hello: func(f *forger, h *Hello) {
				old := f.pcrs[8]
				f.extend(8, [32]byte{1})
				t.Cleanup(func() { f.pcrs[8] = old })
			}},
		},
		"boot-log-capped": {"no separators": {hello: func(f *forger, h *Hello) {
			var w eventlog.Writer
			w.Measure(8, 0x0d, []byte("only this"))
			oldPCRs, oldLog := f.pcrs, f.bootLog
			t.Cleanup(func() { f.pcrs, f.bootLog = oldPCRs, oldLog })
			f.bootLog, f.pcrs = w.Bytes(), map[int][32]byte{}
			f.extend(8, sha256.Sum256([]byte("only this")))
			h.BootLogHash = sha256.Sum256(f.bootLog)
		}}},
	}
	for rule, key := range map[string]func(*Hello, []byte){
		"ak-attributes":        func(h *Hello, b []byte) { h.AKPub = b },
		"node-key-attributes":  func(h *Hello, b []byte) { h.NodePub = b },
		"trail-key-attributes": func(h *Hello, b []byte) { h.TrailPub = b },
	} {
		right, wrong := attestationKey, residentKey
		if rule != "ak-attributes" {
			right, wrong = residentKey, attestationKey
		}
		out[rule] = map[string]lie{"restricted or not": {hello: func(f *forger, h *Hello) { key(h, public(t, wrong, f.ak.Public())) }}}
		for name, change := range map[string]func(*tpm2.TPMTPublic){
			"movable":    setAttributes(func(a *tpm2.TPMAObject) { a.FixedTPM = false }),
			"moved":      setAttributes(func(a *tpm2.TPMAObject) { a.FixedParent = false }),
			"imported":   setAttributes(func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false }),
			"decrypts":   setAttributes(func(a *tpm2.TPMAObject) { a.Decrypt = true }),
			"named SHA1": func(p *tpm2.TPMTPublic) { p.NameAlg = tpm2.TPMAlgSHA1 },
			"any scheme": func(p *tpm2.TPMTPublic) {
				params, err := p.Parameters.ECCDetail()
				if err != nil {
					t.Fatal(err)
				}
				loose := *params
				loose.Scheme = tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgNull}
				p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &loose)
			},
		} {
			out[rule][name] = lie{hello: func(f *forger, h *Hello) { key(h, public(t, right, f.ak.Public(), change)) }}
		}
	}
	for i, name := range []string{"quote", "node-key", "trail-key", "starts", "epoch"} {
		of := func(p *Proof) *Signed { return []*Signed{&p.Quote, &p.Node, &p.Trail, &p.Starts, &p.Epoch}[i] }
		out[name+"-signature"] = map[string]lie{
			"flipped": {proof: func(f *forger, p *Proof) { of(p).Attest[20] ^= 1 }},
			"another AK": {proof: func(f *forger, p *Proof) {
				*of(p) = (&forger{ak: newKey(t, elliptic.P256())}).sign(t, of(p).Attest)
			}},
			"zero": {proof: func(f *forger, p *Proof) { clear(of(p).Signature) }},
		}
		out[name+"-magic"] = map[string]lie{
			"external": {raw: only(name, func(b []byte) []byte { b[0] = 0; return b })},
			"empty":    {raw: only(name, func(b []byte) []byte { return nil })},
		}
		out[name+"-type"] = map[string]lie{
			"time":     {raw: only(name, func(b []byte) []byte { binary.BigEndian.PutUint16(b[4:], 0x8019); return b })},
			"trailing": {raw: only(name, func(b []byte) []byte { return append(b, 0) })},
			"cut":      {raw: only(name, func(b []byte) []byte { return b[:len(b)-1] })},
		}
		out[name+"-nonce"] = map[string]lie{
			"stale": {attest: func(f *forger, a *attests) { a.all()[i].ExtraData.Buffer = make([]byte, 32) }},
			"none":  {attest: func(f *forger, a *attests) { a.all()[i].ExtraData.Buffer = nil }},
		}
	}
	// A relay has another channel, so another exporter value; the quote is read first.
	out["quote-nonce"]["relayed"] = lie{exporter: bytes.Repeat([]byte{8}, 32)}
	return out
}

func only(want string, change func([]byte) []byte) func(string, []byte) []byte {
	return func(name string, b []byte) []byte {
		if name == want {
			return change(b)
		}
		return b
	}
}

// bootLog sends another log than the PCRs are of, and says so.
func bootLog(log []byte) lie {
	return lie{
		hello: func(f *forger, h *Hello) { h.BootLogHash = sha256.Sum256(log) },
		proof: func(f *forger, p *Proof) { p.BootLog = log },
	}
}
