package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// forger is a TPM in software that signs whatever it is told: an honest node with
// every part of its evidence open to change. All its keys are software keys.
type forger struct {
	ca                    *ecdsa.PrivateKey
	root                  *x509.Certificate
	ek                    *ecdsa.PrivateKey
	ak, node, trail, feed *ecdsa.PrivateKey
	bootLog               []byte
	pcrs                  map[int][32]byte
	counters              Counters
}

// lie is one change to honest evidence. A nil hook changes nothing.
type lie struct {
	verifier func(f *forger, v *Verifier)
	hello    func(f *forger, h *Hello)
	helloRaw func(b []byte) []byte
	attest   func(f *forger, a *attests)            // before the AK signs
	raw      func(name string, b []byte) []byte     // before the AK signs, as bytes
	proof    func(f *forger, p *Proof)              // after the AK signed, before the HMAC
	sealed   func(p *Proof)                         // after the HMAC
	proofRaw func(b []byte) []byte                  //
	late     time.Duration                          // between Begin and Finish
	exporter []byte                                 // what Finish sees instead
	spki     func(f *forger) []byte                 // likewise
	finish   func(s *Session, proof, exp, k []byte) // before the real Finish
}

// attests are the five structures an AK signs.
type attests struct{ quote, node, trail, starts, epoch tpm2.TPMSAttest }

func (a *attests) all() []*tpm2.TPMSAttest {
	return []*tpm2.TPMSAttest{&a.quote, &a.node, &a.trail, &a.starts, &a.epoch}
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newForger(t testing.TB) *forger {
	t.Helper()
	f := &forger{counters: Counters{Starts: 7, Epoch: 3}, bootLog: eventlog.Boot{CommandLine: "quiet"}.Log()}
	for _, key := range []**ecdsa.PrivateKey{&f.ca, &f.ek, &f.ak, &f.node, &f.trail, &f.feed} {
		*key = newKey(t, elliptic.P256())
	}
	f.root = f.issue(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "root"}}, nil, f.ca.Public())
	f.pcrs = map[int][32]byte{}
	for p := range 16 {
		f.pcrs[p] = [32]byte{}
	}
	events, err := eventlog.Measurements(f.bootLog)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		f.extend(e.PCR, e.Digest)
	}
	return f
}

func (f *forger) extend(pcr int, digest [32]byte) {
	old := f.pcrs[pcr]
	f.pcrs[pcr] = sha256.Sum256(append(old[:], digest[:]...))
}

func (f *forger) issue(t testing.TB, tmpl, parent *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	tmpl.SerialNumber = big.NewInt(0xabc)
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key, f.ca)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// certificate is that of an EK.
func (f *forger) certificate(t testing.TB, key crypto.PublicKey) []byte {
	return f.issue(t, &x509.Certificate{UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEKCertificate}}, f.root, key).Raw
}

// public puts a software key into a public area.
func public(t testing.TB, template tpm2.TPMTPublic, key crypto.PublicKey, change ...func(*tpm2.TPMTPublic)) []byte {
	t.Helper()
	if err := setKey(&template, key); err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(&template)
	}
	return tpm2.Marshal(template)
}

func pkixOf(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func nameOfPublic(raw []byte) []byte {
	sum := sha256.Sum256(raw)
	return append([]byte{0, 0x0b}, sum[:]...)
}

func (f *forger) honestHello(t testing.TB) Hello {
	return Hello{
		EKCerts:     [][]byte{f.certificate(t, f.ek.Public())},
		EKPub:       public(t, tpm2.ECCEKTemplate, f.ek.Public()),
		AKPub:       public(t, attestationKey, f.ak.Public()),
		NodePub:     public(t, residentKey, f.node.Public()),
		TrailPub:    public(t, residentKey, f.trail.Public()),
		FeedPub:     pkixOf(t, f.feed.Public()),
		BootLogHash: sha256.Sum256(f.bootLog),
	}
}

// honest are the structures a TPM would sign.
func (f *forger) honest(t testing.TB, h Hello, ch Challenge, q [32]byte) *attests {
	path := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHEndorsement)), nameOfPublic(h.AKPub)...))
	base := tpm2.TPMSAttest{
		Magic:           tpm2.TPMGeneratedValue,
		QualifiedSigner: tpm2.TPM2BName{Buffer: append([]byte{0, 0x0b}, path[:]...)},
		ExtraData:       tpm2.TPM2BData{Buffer: q[:]},
		ClockInfo:       tpm2.TPMSClockInfo{Clock: 1000, ResetCount: 4, Safe: true},
		FirmwareVersion: 0x2019102300163636,
	}
	var a attests
	for _, s := range a.all() {
		*s = base
	}
	values := f.values(ch)
	digest := sha256.Sum256(values)
	setQuote(&a.quote, tpm2.TPMSQuoteInfo{PCRSelect: selection(ch.PCRs), PCRDigest: tpm2.TPM2BDigest{Buffer: digest[:]}})
	setCertify(&a.node, nameOfPublic(h.NodePub))
	setCertify(&a.trail, nameOfPublic(h.TrailPub))
	setCounter(t, &a.starts, counterPublic(startsIndex), f.counters.Starts)
	setCounter(t, &a.epoch, counterPublic(epochIndex), f.counters.Epoch)
	return &a
}

func (f *forger) values(ch Challenge) []byte {
	var values []byte
	for _, p := range ch.PCRs {
		v := f.pcrs[int(p)]
		values = append(values, v[:]...)
	}
	return values
}

func setQuote(a *tpm2.TPMSAttest, info tpm2.TPMSQuoteInfo) {
	a.Type, a.Attested = tpm2.TPMSTAttestQuote, tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &info)
}

func setCertify(a *tpm2.TPMSAttest, name []byte) {
	a.Type = tpm2.TPMSTAttestCertify
	a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: tpm2.TPM2BName{Buffer: name}})
}

func setCounter(t testing.TB, a *tpm2.TPMSAttest, public tpm2.TPMSNVPublic, value uint64) {
	t.Helper()
	name, err := tpm2.NVName(&public)
	if err != nil {
		t.Fatal(err)
	}
	a.Type = tpm2.TPMSTAttestNV
	a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestNV, &tpm2.TPMSNVCertifyInfo{
		IndexName:  *name,
		NVContents: tpm2.TPM2BData{Buffer: binary.BigEndian.AppendUint64(nil, value)},
	})
}

// sign signs as the AK does.
func (f *forger) sign(t testing.TB, attest []byte) Signed {
	t.Helper()
	digest := sha256.Sum256(attest)
	r, s, err := ecdsa.Sign(rand.Reader, f.ak, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 2*coordinate)
	r.FillBytes(sig[:coordinate])
	s.FillBytes(sig[coordinate:])
	return Signed{Attest: attest, Signature: sig}
}

// run is a whole attestation with one lie in it.
func (f *forger) run(t testing.TB, l lie) (Claims, error) {
	t.Helper()
	now := time.Now()
	v := &Verifier{Roots: x509.NewCertPool()}
	v.Roots.AddCert(f.root)
	if l.verifier != nil {
		l.verifier(f, v)
	}
	h := f.honestHello(t)
	if l.hello != nil {
		l.hello(f, &h)
	}
	hello := marshal(t, h)
	if l.helloRaw != nil {
		hello = l.helloRaw(hello)
	}
	s, err := v.Begin(now, hello)
	if err != nil {
		return Claims{}, err
	}
	exporter := bytes.Repeat([]byte{9}, 32)
	spki := pkixOf(t, f.node.Public())
	q := qualify(hello, s.Challenge(), exporter, spki)
	a := f.honest(t, h, s.state.challenge, q)
	if l.attest != nil {
		l.attest(f, a)
	}
	p := Proof{PCRs: f.values(s.state.challenge), BootLog: f.bootLog}
	for name, part := range map[string]struct {
		attest *tpm2.TPMSAttest
		to     *Signed
	}{
		"quote": {&a.quote, &p.Quote}, "node-key": {&a.node, &p.Node}, "trail-key": {&a.trail, &p.Trail},
		"starts": {&a.starts, &p.Starts}, "epoch": {&a.epoch, &p.Epoch},
	} {
		raw := tpm2.Marshal(*part.attest)
		if l.raw != nil {
			raw = l.raw(name, raw)
		}
		*part.to = f.sign(t, raw)
	}
	if l.proof != nil {
		l.proof(f, &p)
	}
	input, err := p.macInput(q)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, s.state.secret)
	mac.Write(input)
	p.MAC = mac.Sum(nil)
	if l.sealed != nil {
		l.sealed(&p)
	}
	proof := marshal(t, p)
	if l.proofRaw != nil {
		proof = l.proofRaw(proof)
	}
	if l.exporter != nil {
		exporter = l.exporter
	}
	if l.spki != nil {
		spki = l.spki(f)
	}
	if l.finish != nil {
		l.finish(s, proof, exporter, spki)
	}
	return s.Finish(now.Add(l.late), proof, slices.Clone(exporter), spki)
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := statement.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
