package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// devidLie is one change to honest "tpm_devid" evidence. A nil hook changes nothing.
// In it the forger's node key is the DevID key and its trail key the CSR's.
type devidLie struct {
	verifier  func(f *forger, v *DevIDVerifier)
	payload   func(f *forger, p *devidPayload)
	certified func(a *tpm2.TPMSAttest)
	raw       func(b []byte) []byte // either certification, as bytes
	response  func(f *forger, r *devidResponse)
	bound     func(a *tpm2.TPMSAttest)
	bareBytes func(b []byte) []byte // either message
	late      time.Duration
	exporter  []byte // what Finish sees instead
	spki      []byte
	twice     bool
	unbound   bool
	feed      []byte
	quoter    func(a *tpm2.TPMSAttest)
	noQuoter  bool
}

func tpmSignature(t testing.TB, key *ecdsa.PrivateKey, data []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(data)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
		Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()},
	})})
}

func (f *forger) runDevID(t testing.TB, l devidLie) (DevIDClaims, error) {
	t.Helper()
	now := time.Now()
	v := &DevIDVerifier{DevIDRoots: x509.NewCertPool(), EK: Verifier{Roots: x509.NewCertPool()}}
	v.DevIDRoots.AddCert(f.root)
	v.EK.Roots.AddCert(f.root)
	if l.verifier != nil {
		l.verifier(f, v)
	}
	certification := func(public, nonce []byte, change func(*tpm2.TPMSAttest)) (attest, signature []byte) {
		a := tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, ExtraData: tpm2.TPM2BData{Buffer: nonce}}
		setCertify(&a, nameOfPublic(public))
		if change != nil {
			change(&a)
		}
		attest = tpm2.Marshal(a)
		if l.raw != nil {
			attest = l.raw(attest)
		}
		return attest, tpmSignature(t, f.ak, attest)
	}
	message := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if l.bareBytes != nil {
			b = l.bareBytes(b)
		}
		return b
	}
	devid := f.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "node-1"}}, f.root, f.node.Public())
	p := devidPayload{DevIDCert: [][]byte{devid.Raw}, DevIDPub: public(t, residentKey, f.node.Public()), EKCert: f.certificate(t, f.ek.Public()),
		EKPub: public(t, tpm2.ECCEKTemplate, f.ek.Public()), AKPub: public(t, attestationKey, f.ak.Public())}
	p.CertifiedDevID, p.CertificationSignature = certification(p.DevIDPub, nil, l.certified)
	if l.payload != nil {
		l.payload(f, &p)
	}
	s, err := v.Begin(now, message(p))
	if err != nil {
		return DevIDClaims{}, err
	}
	exporter, spki := bytes.Repeat([]byte{9}, 32), pkixOf(t, f.trail.Public())
	digest := sha256.Sum256(s.state.nonce)
	sig, err := f.node.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	r := devidResponse{DevID: sig, CredActivation: s.state.secret}
	if !l.unbound {
		b := &devidBinding{SVIDPub: public(t, residentKey, f.trail.Public()), FeedPub: l.feed}
		q := bindingData(s.state.nonce, exporter, spki, l.feed)
		b.Attest, b.Signature = certification(b.SVIDPub, q[:], l.bound)
		if !l.noQuoter {
			b.Quoter = &devidQuoter{Public: public(t, attestationKey, f.feed.Public())}
			b.Quoter.Attest, b.Quoter.Signature = certification(b.Quoter.Public, q[:], func(a *tpm2.TPMSAttest) {
				setPrimary(a, b.Quoter.Public)
				if l.quoter != nil {
					l.quoter(a)
				}
			})
		}
		r.BailiwickKeyBinding = b
	}
	if l.response != nil {
		l.response(f, &r)
	}
	if l.exporter != nil {
		exporter = l.exporter
	}
	if l.spki != nil {
		spki = l.spki
	}
	if l.twice {
		_, _ = s.Finish(now, message(r), exporter, spki)
	}
	return s.Finish(now.Add(l.late), message(r), exporter, spki)
}

// setPrimary says that the certified key is a primary of the endorsement hierarchy.
func setPrimary(a *tpm2.TPMSAttest, public []byte) {
	name := nameOfPublic(public)
	a.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{
		Name: tpm2.TPM2BName{Buffer: name}, QualifiedName: tpm2.TPM2BName{Buffer: qualifiedName(name)},
	})
}

func TestDevIDHonest(t *testing.T) {
	f := newForger(t)
	feed := pkixOf(t, f.feed.Public())
	for name, l := range map[string]devidLie{"bound": {feed: feed}, "stock": {unbound: true}, "bound, no feed key": {}, "bound, no AK of ours": {noQuoter: true}} {
		c, err := f.runDevID(t, l)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(c.Fingerprint) != 40 || c.Subject != "node-1" || c.Issuer != "root" || len(c.Above) != 1 {
			t.Errorf("%s: %+v", name, c)
		}
		if (c.NodeKey == nil) != l.unbound || (c.FeedKey == nil) != (l.feed == nil) {
			t.Errorf("%s: node key %v, feed key %v", name, c.NodeKey, c.FeedKey)
		}
		if want := !l.unbound && !l.noQuoter; (c.AK != nil) != want || want && !c.AK.Equal(f.feed.Public()) {
			t.Errorf("%s: AK %v", name, c.AK)
		}
	}
}

func devidLies(t testing.TB) map[string]map[string]devidLie {
	other := newKey(t, elliptic.P256())
	payload := func(change func(*forger, *devidPayload)) devidLie { return devidLie{payload: change} }
	response := func(change func(*forger, *devidResponse)) devidLie { return devidLie{response: change} }
	attributes := func(set func(*tpm2.TPMAObject)) func(*tpm2.TPMTPublic) {
		return func(p *tpm2.TPMTPublic) { set(&p.ObjectAttributes) }
	}
	return map[string]map[string]devidLie{
		"devid-format": {
			"not JSON":     {bareBytes: func([]byte) []byte { return []byte("x") }},
			"oversized":    {bareBytes: func([]byte) []byte { return make([]byte, MaxDevID+1) }},
			"no DevID":     payload(func(_ *forger, p *devidPayload) { p.DevIDCert = nil }),
			"no EK cert":   payload(func(_ *forger, p *devidPayload) { p.EKCert = nil }),
			"long chain":   payload(func(_ *forger, p *devidPayload) { p.DevIDCert = slices.Repeat(p.DevIDCert, 9) }),
			"AK not one":   payload(func(_ *forger, p *devidPayload) { p.AKPub = []byte{0, 1} }),
			"DevID broken": payload(func(_ *forger, p *devidPayload) { p.DevIDCert[0] = []byte{1} }),
		},
		"devid-chain": {
			"no roots": {verifier: func(f *forger, v *DevIDVerifier) { v.DevIDRoots = nil }},
			"foreign":  {verifier: func(f *forger, v *DevIDVerifier) { v.DevIDRoots = x509.NewCertPool() }},
			"authority": payload(func(f *forger, p *devidPayload) {
				p.DevIDCert[0] = f.issue(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true}, f.root, f.node.Public()).Raw
			}),
		},
		"devid-key": {"another key": payload(func(f *forger, p *devidPayload) {
			p.DevIDCert[0] = f.issue(t, &x509.Certificate{}, f.root, other.Public()).Raw
		})},
		"devid-attributes": {
			"may leave": payload(func(f *forger, p *devidPayload) {
				p.DevIDPub = public(t, residentKey, f.node.Public(), attributes(func(a *tpm2.TPMAObject) { a.FixedTPM = false }))
			}),
			"imported": payload(func(f *forger, p *devidPayload) {
				p.DevIDPub = public(t, residentKey, f.node.Public(), attributes(func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false }))
			}),
			"reparented": payload(func(f *forger, p *devidPayload) {
				p.DevIDPub = public(t, residentKey, f.node.Public(), attributes(func(a *tpm2.TPMAObject) { a.FixedParent = false }))
			}),
		},
		"ek-denied": {"denied": {verifier: func(f *forger, v *DevIDVerifier) {
			v.EK.DenyEK = map[[32]byte]bool{sha256.Sum256(pkixOf(t, f.ek.Public())): true}
		}}},
		"ek-attributes": {"signs": payload(func(f *forger, p *devidPayload) {
			p.EKPub = public(t, tpm2.ECCEKTemplate, f.ek.Public(), attributes(func(a *tpm2.TPMAObject) { a.SignEncrypt = true }))
		})},
		"ek-chain": {"no roots": {verifier: func(f *forger, v *DevIDVerifier) { v.EK.Roots = nil }}},
		"ek-key": {"another key": payload(func(f *forger, p *devidPayload) {
			p.EKPub = public(t, tpm2.ECCEKTemplate, other.Public())
		})},
		"ak-attributes": {
			"unrestricted": payload(func(f *forger, p *devidPayload) { p.AKPub = public(t, residentKey, f.ak.Public()) }),
			"may leave": payload(func(f *forger, p *devidPayload) {
				p.AKPub = public(t, attestationKey, f.ak.Public(), attributes(func(a *tpm2.TPMAObject) { a.FixedTPM = false }))
			}),
		},
		"devid-signature": {
			"another AK": payload(func(f *forger, p *devidPayload) { p.CertificationSignature = tpmSignature(t, other, p.CertifiedDevID) }),
			"none":       payload(func(_ *forger, p *devidPayload) { p.CertificationSignature = nil }),
			"HMAC":       payload(func(_ *forger, p *devidPayload) { p.CertificationSignature = []byte{0, 5, 0, 11} }),
		},
		"devid-magic": {"other": {raw: func(b []byte) []byte { b[0] ^= 1; return b }}, "short": {raw: func(b []byte) []byte { return b[:4] }}},
		"devid-type":  {"quote": {certified: func(a *tpm2.TPMSAttest) { setQuote(a, tpm2.TPMSQuoteInfo{}) }}},
		"devid-name":  {"another key": {certified: func(a *tpm2.TPMSAttest) { setCertify(a, nameOfPublic([]byte("x"))) }}},

		"session-expired": {"late": {late: MaxAge + 1}, "early": {late: -1}},
		sessionSpent:      {"twice": {twice: true}},
		"devid-response-format": {
			"bulky":       response(func(_ *forger, r *devidResponse) { r.BailiwickKeyBinding.Attest = make([]byte, maxAttest+1) }),
			"bulky as AK": response(func(_ *forger, r *devidResponse) { r.BailiwickKeyBinding.Quoter.Attest = make([]byte, maxAttest+1) }),
		},
		"devid-nonce": {"another key": response(func(_ *forger, r *devidResponse) {
			r.DevID, _ = other.Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
		})},
		"credential": {
			"guessed": response(func(_ *forger, r *devidResponse) { r.CredActivation = make([]byte, 32) }),
			"none":    response(func(_ *forger, r *devidResponse) { r.CredActivation = nil }),
		},
		"channel": {"none": {exporter: []byte{1}}},
		"binding-attributes": {"may leave": response(func(f *forger, r *devidResponse) {
			r.BailiwickKeyBinding.SVIDPub = public(t, residentKey, f.trail.Public(), attributes(func(a *tpm2.TPMAObject) { a.FixedTPM = false }))
		})},
		"binding-csr-key": {"another key": {spki: pkixOf(t, other.Public())}},
		"binding-signature": {"another AK": response(func(_ *forger, r *devidResponse) {
			r.BailiwickKeyBinding.Signature = tpmSignature(t, other, r.BailiwickKeyBinding.Attest)
		})},
		"binding-magic": {"other": response(func(f *forger, r *devidResponse) {
			r.BailiwickKeyBinding.Attest[0] ^= 1
			r.BailiwickKeyBinding.Signature = tpmSignature(t, f.ak, r.BailiwickKeyBinding.Attest)
		})},
		"binding-type": {"quote": {bound: func(a *tpm2.TPMSAttest) { setQuote(a, tpm2.TPMSQuoteInfo{}) }}},
		"binding-nonce": {
			"stale":   {bound: func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = make([]byte, 32) }},
			"relayed": {exporter: bytes.Repeat([]byte{8}, 32)},
			"another feed key": response(func(f *forger, r *devidResponse) {
				r.BailiwickKeyBinding.FeedPub = pkixOf(t, other.Public())
			}),
		},
		"binding-name": {"another key": {bound: func(a *tpm2.TPMSAttest) { setCertify(a, nameOfPublic([]byte("x"))) }}},
		"feed-key":     {"no key": {feed: []byte("x")}},
		"quoter-attributes": {
			"signs anything": response(func(f *forger, r *devidResponse) {
				r.BailiwickKeyBinding.Quoter.Public = public(t, residentKey, f.feed.Public())
			}),
			"not one": response(func(_ *forger, r *devidResponse) { r.BailiwickKeyBinding.Quoter.Public = []byte{1} }),
		},
		"quoter-signature": {"another AK": response(func(_ *forger, r *devidResponse) {
			r.BailiwickKeyBinding.Quoter.Signature = tpmSignature(t, other, r.BailiwickKeyBinding.Quoter.Attest)
		})},
		"quoter-magic": {"other": response(func(f *forger, r *devidResponse) {
			r.BailiwickKeyBinding.Quoter.Attest[0] ^= 1
			r.BailiwickKeyBinding.Quoter.Signature = tpmSignature(t, f.ak, r.BailiwickKeyBinding.Quoter.Attest)
		})},
		"quoter-type":  {"quote": {quoter: func(a *tpm2.TPMSAttest) { setQuote(a, tpm2.TPMSQuoteInfo{}) }}},
		"quoter-nonce": {"stale": {quoter: func(a *tpm2.TPMSAttest) { a.ExtraData.Buffer = make([]byte, 32) }}},
		"quoter-name":  {"another key": {quoter: func(a *tpm2.TPMSAttest) { setPrimary(a, []byte("x")) }}},
		"quoter-hierarchy": {"of the owner": {quoter: func(a *tpm2.TPMSAttest) {
			info, _ := a.Attested.Certify() // setPrimary made it
			setCertify(a, info.Name.Buffer)
		}}},
	}
}

func TestDevIDRequest(t *testing.T) {
	f := newForger(t)
	exporter, pub := bytes.Repeat([]byte{9}, 32), public(t, residentKey, f.node.Public())
	attest := func(change func(*tpm2.TPMSAttest)) []byte {
		q := devidData(exporter, pub)
		a := tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, ExtraData: tpm2.TPM2BData{Buffer: q[:]}}
		setCertify(&a, nameOfPublic(pub))
		if change != nil {
			change(&a)
		}
		return tpm2.Marshal(a)
	}
	loose := public(t, residentKey, f.node.Public(), func(p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false })
	for _, c := range []struct {
		rule                     string
		public, attest, exporter []byte
		by                       *ecdsa.PrivateKey
	}{
		{"", pub, attest(nil), exporter, f.ak},
		{"devid-format", []byte{1}, attest(nil), exporter, f.ak},
		{"devid-format", pub, make([]byte, maxAttest+1), exporter, f.ak},
		{"devid-attributes", loose, attest(nil), exporter, f.ak},
		{"channel", pub, attest(nil), nil, f.ak},
		{"devid-signature", pub, attest(nil), exporter, f.node},
		{"devid-magic", pub, []byte("not made by a TPM"), exporter, f.ak},
		{"devid-type", pub, attest(func(a *tpm2.TPMSAttest) { setQuote(a, tpm2.TPMSQuoteInfo{}) }), exporter, f.ak},
		{"devid-nonce", pub, attest(nil), bytes.Repeat([]byte{8}, 32), f.ak},
		{"devid-name", pub, attest(func(a *tpm2.TPMSAttest) { setCertify(a, nameOfPublic([]byte("x"))) }), exporter, f.ak},
	} {
		key, err := VerifyDevIDRequest(&f.ak.PublicKey, c.public, c.attest, tpmSignature(t, c.by, c.attest), c.exporter)
		var check *CheckError
		switch {
		case c.rule == "" && (err != nil || !key.Equal(f.node.Public())):
			t.Errorf("honest: %v", err)
		case c.rule != "" && (!errors.As(err, &check) || check.Check != c.rule):
			t.Errorf("got %v, want %s", err, c.rule)
		}
	}
}

func FuzzDevID(f *testing.F) {
	forger := newForger(f)
	v := &DevIDVerifier{DevIDRoots: x509.NewCertPool(), EK: Verifier{Roots: x509.NewCertPool()}}
	v.DevIDRoots.AddCert(forger.root)
	v.EK.Roots.AddCert(forger.root)
	seed, err := json.Marshal(devidPayload{DevIDCert: [][]byte{forger.root.Raw}, EKCert: forger.root.Raw, EKPub: public(f, tpm2.ECCEKTemplate, forger.ek.Public()),
		AKPub: public(f, attestationKey, forger.ak.Public()), DevIDPub: public(f, residentKey, forger.node.Public())})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := v.Begin(time.Now(), b); err == nil {
			t.Error("accepted")
		}
	})
}
