package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// ErrDevID means a DevID cannot be used for SPIRE's "tpm_devid": its files are
// damaged, or the TPM has no RSA EK with a certificate, which SPIRE's server wants.
var ErrDevID = errors.New("DevID cannot be used")

// DevID is a resident P-256 key in the form SPIRE's agent takes: a child of the
// storage root key that the high-range template stands for (TCG EK Credential
// Profile H-1; the same as the low-range one, with an empty unique field).
// It may be used concurrently.
type DevID struct {
	keys *Keys
	blob blob
	key  *signer

	ak *object // RSA, restricted, made on first use; guarded by the Device
}

// CanDevID returns ErrDevID where SPIRE's server would refuse this TPM, whatever the
// DevID.
func (k *Keys) CanDevID() error {
	if k.ekPublic.Type != tpm2.TPMAlgRSA || len(k.ekCerts) == 0 {
		return fmt.Errorf("%w: this TPM has no RSA EK with a certificate", ErrDevID)
	}
	return nil
}

// NewDevID makes a DevID key in the TPM of k. It is nowhere until its Files are
// written.
func (k *Keys) NewDevID() (*DevID, error) {
	var b blob
	err := k.device.Exclusive(func(t transport.TPM) (err error) {
		b, err = newBlob(t, highSRK(tpm2.ECCSRKTemplate))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make DevID key: %w", err)
	}
	return k.devID(b)
}

// OpenDevID loads a DevID key from its two files. Errors are ErrDevID,
// ErrOtherTPM and those of the device.
func (k *Keys) OpenDevID(public, private []byte) (*DevID, error) {
	if len(private) == 0 || len(private) > maxBlob {
		return nil, fmt.Errorf("%w: private part of %d bytes", ErrDevID, len(private))
	}
	if _, err := parsePublic(public); err != nil {
		return nil, fmt.Errorf("%w: public part: %w", ErrDevID, err)
	}
	return k.devID(blob{public: tpm2.BytesAs2B[tpm2.TPMTPublic](public), private: tpm2.TPM2BPrivate{Buffer: private}})
}

func (k *Keys) devID(b blob) (*DevID, error) {
	d := &DevID{keys: k, blob: b, key: &signer{device: k.device, object: &object{build: child(highSRK(tpm2.ECCSRKTemplate), b)}}}
	err := k.device.Exclusive(func(t transport.TPM) error {
		return d.key.object.use(t, func(tpm2.NamedHandle) error { return nil })
	})
	if err != nil {
		return nil, fmt.Errorf("load DevID key: %w", err)
	}
	if d.key.public, err = p256(d.key.object.public); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDevID, err)
	}
	return d, nil
}

// Files returns what goes into SPIRE's devid_pub_path and devid_priv_path:
// TPMT_PUBLIC and the content of TPM2B_PRIVATE. The private part is of use to this
// TPM only.
func (d *DevID) Files() (public, private []byte) {
	return tpm2.Marshal(d.key.object.public), slices.Clone(d.blob.private.Buffer)
}

// Key signs SHA-256 digests with the DevID key.
func (d *DevID) Key() crypto.Signer { return d.key }

// highSRK is the storage root key SPIRE's agent makes.
func highSRK(template tpm2.TPMTPublic) *object {
	if template.Type == tpm2.TPMAlgECC {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	} else {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	}
	return &object{build: primary(tpm2.TPMRHOwner, template)}
}

// rsaAK is the template of the AK that SPIRE's server takes: RSA only.
var rsaAK = tpm2.TPMTPublic{
	Type:             tpm2.TPMAlgRSA,
	NameAlg:          tpm2.TPMAlgSHA256,
	ObjectAttributes: signingAttributes(true),
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
		Scheme: tpm2.TPMTRSAScheme{
			Scheme:  tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
		},
		KeyBits: 2048,
	}),
	Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{}),
}

// makeAK makes the RSA AK: it takes a discrete TPM up to a minute, so once.
func (d *DevID) makeAK(t transport.TPM) error {
	if d.ak != nil {
		return nil
	}
	srk := highSRK(tpm2.RSASRKTemplate)
	var b blob
	err := srk.use(t, func(parent tpm2.NamedHandle) error {
		rsp, err := tpm2.Create{ParentHandle: parent, InPublic: tpm2.New2B(rsaAK)}.Execute(t)
		if err != nil {
			return err
		}
		b = blob{public: rsp.OutPublic, private: rsp.OutPrivate}
		return nil
	})
	if err != nil {
		return fmt.Errorf("make RSA attestation key: %w", err)
	}
	ak := &object{build: child(srk, b)}
	if err := ak.use(t, func(tpm2.NamedHandle) error { return nil }); err != nil {
		return fmt.Errorf("load RSA attestation key: %w", err)
	}
	d.ak = ak
	return nil
}

// Begin makes the opening message of "tpm_devid" with the DevID's certificate
// chain, its own first.
func (d *DevID) Begin(chain [][]byte) ([]byte, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("%w: no certificate", ErrDevID)
	}
	if err := d.keys.CanDevID(); err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("%w: certificate: %w", ErrDevID, err)
	}
	if !sameKey(cert.PublicKey, d.key.Public()) {
		return nil, fmt.Errorf("%w: the certificate is of another key", ErrDevID)
	}
	p := devidPayload{DevIDCert: chain, EKCert: d.keys.ekCerts[0], EKPub: tpm2.Marshal(d.keys.ekPublic), DevIDPub: tpm2.Marshal(d.key.object.public)}
	err = d.keys.device.Exclusive(func(t transport.TPM) (err error) {
		if err := d.makeAK(t); err != nil {
			return err
		}
		p.AKPub = tpm2.Marshal(d.ak.public)
		p.CertifiedDevID, p.CertificationSignature, err = certifyBy(t, d.ak, d.key.object, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(p)
}

// Answer answers the challenge, and binds the node key to it: to our own issuer
// that proves that csrSPKI, which must be the node key, lives in this TPM. feedPub
// (PKIX, P-256) may be nil. SPIRE's server takes no notice of the binding.
func (d *DevID) Answer(challenge, exporter, csrSPKI, feedPub []byte) ([]byte, error) {
	var ch devidChallenge
	if err := decodeJSON(challenge, &ch); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChallenge, err)
	}
	if ch.CredActivation == nil || len(ch.DevID) == 0 || len(ch.DevID) > maxAttest {
		return nil, fmt.Errorf("%w: no nonce or no credential", ErrChallenge)
	}
	digest := sha256.Sum256(ch.DevID)
	var rsp devidResponse
	var err error
	if rsp.DevID, err = d.key.Sign(nil, digest[:], crypto.SHA256); err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(d.keys.node.public)
	if err != nil {
		return nil, err
	}
	err = d.keys.device.Exclusive(func(t transport.TPM) (err error) {
		if err := d.makeAK(t); err != nil {
			return err
		}
		err = d.ak.use(t, func(ak tpm2.NamedHandle) (err error) {
			rsp.CredActivation, err = d.keys.activate(t, ak, ch.CredActivation.Credential, ch.CredActivation.Secret)
			return err
		})
		if err != nil {
			return err
		}
		if !slices.Equal(spki, csrSPKI) { // another key than the node key: nothing to bind
			return nil
		}
		q := bindingData(ch.DevID, exporter, csrSPKI, feedPub)
		b := &devidBinding{SVIDPub: tpm2.Marshal(d.keys.node.object.public), FeedPub: feedPub}
		if b.Attest, b.Signature, err = certifyBy(t, d.ak, d.keys.node.object, q[:]); err != nil {
			return err
		}
		b.Quoter = &devidQuoter{Public: tpm2.Marshal(d.keys.ak.public)}
		b.Quoter.Attest, b.Quoter.Signature, err = certifyBy(t, d.ak, d.keys.ak, q[:])
		rsp.BailiwickKeyBinding = b
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	return json.Marshal(rsp)
}

// certifyBy has ak certify key: TPMS_ATTEST and TPMT_SIGNATURE.
func certifyBy(t transport.TPM, ak, key *object, data []byte) (attest, signature []byte, err error) {
	err = ak.use(t, func(a tpm2.NamedHandle) error {
		return key.use(t, func(h tpm2.NamedHandle) error {
			rsp, err := tpm2.Certify{ObjectHandle: withoutPassword(h), SignHandle: withoutPassword(a), QualifyingData: tpm2.TPM2BData{Buffer: data}}.Execute(t)
			if err != nil {
				return fmt.Errorf("certify key: %w", err)
			}
			attest, signature = rsp.CertifyInfo.Bytes(), tpm2.Marshal(rsp.Signature)
			return nil
		})
	})
	return attest, signature, err
}

// Request asks a DevID authority that knows this TPM's AK to certify the key: the
// AK's certification of it, bound to the channel by its TLS exporter value.
func (d *DevID) Request(exporter []byte) (attest, signature []byte, err error) {
	q := devidData(exporter, tpm2.Marshal(d.key.object.public))
	err = d.keys.device.Exclusive(func(t transport.TPM) error {
		attest, signature, err = certifyBy(t, d.keys.ak, d.key.object, q[:])
		return err
	})
	return attest, signature, err
}

func devidData(exporter, public []byte) [32]byte {
	return sha256.Sum256(lengthPrefixed([]byte(certifyTag), exporter, public))
}

// VerifyDevIDRequest judges a Request of the TPM that has this AK, and returns the
// key to certify. The error is always a *CheckError.
func VerifyDevIDRequest(ak *ecdsa.PublicKey, public, attest, signature, exporter []byte) (*ecdsa.PublicKey, error) {
	no := func(rule string, err error) (*ecdsa.PublicKey, error) { return nil, refuse(rule, err) }
	parsed, err := parsePublic(public)
	if err != nil || len(attest) > maxAttest || len(signature) > maxAttest {
		return no("devid-format", errors.Join(err, errors.New("public area or certification malformed")))
	}
	key, _, err := signingKey(parsed, false)
	if err != nil {
		return no("devid-attributes", err)
	}
	if len(exporter) < minExporter {
		return no("channel", errors.New("no exporter value"))
	}
	if err := verifyTPM(ak, attest, signature); err != nil {
		return no("devid-signature", err)
	}
	if err := magic(attest); err != nil {
		return no("devid-magic", err)
	}
	a, err := certification(attest)
	if err != nil {
		return no("devid-type", err)
	}
	if want := devidData(exporter, public); !slices.Equal(a.ExtraData.Buffer, want[:]) {
		return no("devid-nonce", errors.New("certified for another channel or key"))
	}
	if err := certifiesKey(a, parsed); err != nil {
		return no("devid-name", err)
	}
	return key, nil
}
