package tpm

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bailiwick-mesh/bailiwick/attest/eventlog"
	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

var (
	// ErrChallenge means the verifier sent something no honest verifier sends.
	ErrChallenge = errors.New("attestation challenge is not acceptable")

	// ErrActivation means the TPM refused the credential: it was made for another
	// TPM or another attestation key.
	ErrActivation = errors.New("TPM refused the credential of the challenge")
)

// Hello makes the first message. feedPub is the PKIX P-256 key of the node's feed,
// bootLog the boot log of this boot, as the firmware left it. The result is at most
// MaxHello bytes; the caller keeps it for Prove.
func (k *Keys) Hello(feedPub, bootLog []byte) ([]byte, error) {
	return k.hello(Hello{NodePub: tpm2.Marshal(k.node.object.public)}, feedPub, bootLog)
}

// hello completes a hello that names the node key.
func (k *Keys) hello(h Hello, feedPub, bootLog []byte) ([]byte, error) {
	if len(bootLog) > eventlog.MaxSize {
		return nil, fmt.Errorf("%w: %d bytes", eventlog.ErrTooLarge, len(bootLog))
	}
	h.EKCerts, h.EKPub, h.AKPub = k.ekCerts, tpm2.Marshal(k.ekPublic), tpm2.Marshal(k.ak.public)
	h.TrailPub, h.FeedPub, h.BootLogHash = tpm2.Marshal(k.trail.object.public), feedPub, sha256.Sum256(bootLog)
	hello, err := statement.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(hello) > MaxHello {
		return nil, fmt.Errorf("%w: EK certificates make the hello %d bytes, at most %d", ErrDevice, len(hello), MaxHello)
	}
	return hello, nil
}

// Prove answers a challenge. hello and bootLog are those of Hello, exporter is the
// TLS exporter value of the channel to the server (at least 32 bytes), csrSPKI the
// PKIX key of the CSR, which is that of Node. Errors are ErrChallenge,
// ErrActivation and those of the device.
func (k *Keys) Prove(hello, challenge, exporter, csrSPKI, bootLog []byte) ([]byte, error) {
	return k.prove(k.node.public, k.node, hello, challenge, exporter, csrSPKI, bootLog)
}

// prove answers for a node key; resident is nil where that is not in the TPM.
func (k *Keys) prove(node *ecdsa.PublicKey, resident *signer, hello, challenge, exporter, csrSPKI, bootLog []byte) ([]byte, error) {
	var ch Challenge
	if err := decode(challenge, MaxChallenge, &ch); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChallenge, err)
	}
	if err := ch.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChallenge, err)
	}
	if len(exporter) < minExporter {
		return nil, fmt.Errorf("%w: exporter value of %d bytes, at least %d", ErrChallenge, len(exporter), minExporter)
	}
	spki, err := x509.MarshalPKIXPublicKey(node)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(spki, csrSPKI) {
		return nil, fmt.Errorf("%w: the CSR is not for this node's key", ErrChallenge)
	}
	q := qualify(hello, challenge, exporter, csrSPKI)
	proof := Proof{BootLog: bootLog}
	var secret []byte
	certify := map[*signer]*Signed{resident: &proof.Node, k.trail: &proof.Trail}
	err = k.device.Exclusive(func(t transport.TPM) error {
		return k.ak.use(t, func(ak tpm2.NamedHandle) (err error) {
			if secret, err = k.activate(t, ak, ch.Credential, ch.Secret); err != nil {
				return err
			}
			return k.sign(t, ak, certify, ch, q, &proof)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("prove: %w", err)
	}
	input, err := proof.macInput(q)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(input)
	proof.MAC = mac.Sum(nil)
	return statement.Marshal(proof)
}

// check refuses what could not be quoted.
func (ch Challenge) check() error {
	for i, p := range ch.PCRs {
		if p >= pcrCount || i > 0 && p <= ch.PCRs[i-1] {
			return fmt.Errorf("PCRs %v are not ascending below %d", ch.PCRs, pcrCount)
		}
	}
	if len(ch.PCRs) == 0 {
		return errors.New("no PCRs")
	}
	return nil
}

// refusedCredential are the answers to a credential that is not for this EK and AK.
// TPM_RC_FAILURE is swtpm's, for an RSA EK; the TPM works on.
var refusedCredential = []tpm2.TPMRC{tpm2.TPMRCIntegrity, tpm2.TPMRCValue, tpm2.TPMRCSize, tpm2.TPMRCECCPoint, tpm2.TPMRCFailure}

// activate opens a credential that was made for key. What comes back crosses the
// bus to the CPU encrypted under a session salted with the EK, which also is the one
// that authorizes the EK's use where that takes a policy.
func (k *Keys) activate(t transport.TPM, key tpm2.NamedHandle, credential, hidden []byte) (secret []byte, err error) {
	err = k.ek.use(t, func(ek tpm2.NamedHandle) error {
		covered := []tpm2.AuthOption{tpm2.Salted(ek.Handle, *k.ekPublic), tpm2.AESEncryption(128, tpm2.EncryptOut)}
		auth, more := tpm2.PasswordAuth(nil), []tpm2.Session{}
		if k.ekKind.policy {
			auth = tpm2.Policy(tpm2.TPMAlgSHA256, sha256.Size, byEndorsement, covered...)
		} else {
			more = append(more, tpm2.HMAC(tpm2.TPMAlgSHA256, sha256.Size, covered...))
		}
		rsp, err := tpm2.ActivateCredential{
			ActivateHandle: withoutPassword(key),
			KeyHandle:      tpm2.AuthHandle{Handle: ek.Handle, Name: ek.Name, Auth: auth},
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: credential},
			Secret:         tpm2.TPM2BEncryptedSecret{Buffer: hidden},
		}.Execute(t, more...)
		if slices.ContainsFunc(refusedCredential, func(rc tpm2.TPMRC) bool { return errors.Is(err, rc) }) {
			return fmt.Errorf("%w: %w", ErrActivation, err)
		}
		if err != nil {
			return fmt.Errorf("activate credential: %w", err)
		}
		secret = rsp.CertInfo.Buffer
		return nil
	})
	return secret, err
}

// byEndorsement authorizes the use of an EK by the (empty) password of its
// hierarchy.
func byEndorsement(t transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement, PolicySession: session, NonceTPM: nonce}.Execute(t)
	return err
}

// sign collects the signatures of the AK: of the PCRs, of keys (nil is none) and of the
// counters.
func (k *Keys) sign(t transport.TPM, ak tpm2.NamedHandle, keys map[*signer]*Signed, ch Challenge, q [32]byte, proof *Proof) (err error) {
	data := tpm2.TPM2BData{Buffer: q[:]}
	if err := k.quotePCRs(t, ak, ch.PCRs, data, proof); err != nil {
		return err
	}
	for key, out := range keys {
		if key == nil {
			continue
		}
		err := key.object.use(t, func(h tpm2.NamedHandle) error {
			rsp, err := tpm2.Certify{ObjectHandle: withoutPassword(h), SignHandle: withoutPassword(ak), QualifyingData: data}.Execute(t)
			if err != nil {
				return fmt.Errorf("certify key: %w", err)
			}
			*out, err = signed(rsp.CertifyInfo.Bytes(), &rsp.Signature)
			return err
		})
		if err != nil {
			return err
		}
	}
	for index, out := range map[tpm2.TPMHandle]*Signed{startsIndex: &proof.Starts, epochIndex: &proof.Epoch} {
		if *out, err = certifyCounter(t, ak, index, data); err != nil {
			return err
		}
	}
	return nil
}

// certifyCounter has the AK sign the value of a counter, which it makes on first use.
func certifyCounter(t transport.TPM, ak tpm2.NamedHandle, index tpm2.TPMHandle, data tpm2.TPM2BData) (Signed, error) {
	name, err := counterName(index)
	if err != nil {
		return Signed{}, err
	}
	counter := tpm2.NamedHandle{Handle: index, Name: name}
	command := tpm2.NVCertify{
		SignHandle:     withoutPassword(ak),
		AuthHandle:     withoutPassword(counter),
		NVIndex:        counter,
		QualifyingData: data,
		Size:           counterSize,
	}
	rsp, err := command.Execute(t)
	if err != nil {
		made, wrong := makeCounter(t, index) // says so where the index is something else
		if wrong != nil {
			return Signed{}, wrong
		}
		if made {
			rsp, err = command.Execute(t)
		}
	}
	if err != nil {
		return Signed{}, fmt.Errorf("certify counter: %w", err)
	}
	attest, err := rsp.CertifyInfo.Contents()
	if err != nil {
		return Signed{}, err
	}
	info, err := attest.Attested.NV()
	if err != nil {
		return Signed{}, err
	}
	if !slices.Equal(info.IndexName.Buffer, name.Buffer) { // a verifier would refuse it
		return Signed{}, fmt.Errorf("%w: 0x%08x", ErrCounter, uint32(index))
	}
	return signed(rsp.CertifyInfo.Bytes(), &rsp.Signature)
}

// quotePCRs quotes, and adds the values the quote is of: those that were read last,
// where its digest says that they still are, or else what is read now. The running
// system may extend a PCR between the two; then they are done again.
func (k *Keys) quotePCRs(t transport.TPM, ak tpm2.NamedHandle, pcrs []uint8, data tpm2.TPM2BData, proof *Proof) error {
	const tries = 5
	for range tries {
		quote, err := tpm2.Quote{SignHandle: ak, QualifyingData: data, PCRSelect: selection(pcrs)}.Execute(t)
		if err != nil {
			return fmt.Errorf("quote: %w", err)
		}
		if proof.Quote, err = signed(quote.Quoted.Bytes(), &quote.Signature); err != nil {
			return err
		}
		attest, err := quote.Quoted.Contents()
		if err != nil {
			return err
		}
		info, err := attest.Attested.Quote()
		if err != nil {
			return err
		}
		quoted := func() bool {
			proof.PCRs = nil
			for _, p := range pcrs {
				value := k.pcrs[int(p)]
				proof.PCRs = append(proof.PCRs, value[:]...)
			}
			digest := sha256.Sum256(proof.PCRs)
			return slices.Equal(info.PCRDigest.Buffer, digest[:])
		}
		if quoted() {
			return nil
		}
		if k.pcrs, err = readPCRs(t, pcrs); err != nil {
			return err
		}
		if quoted() {
			return nil
		}
	}
	return fmt.Errorf("%w: PCRs change faster than they can be quoted", ErrDevice)
}

// signed puts a signature of the AK into its form on the wire.
func signed(attest []byte, sig *tpm2.TPMTSignature) (Signed, error) {
	r, s, err := ecdsaSignature(sig)
	if err != nil {
		return Signed{}, err
	}
	out := make([]byte, 2*coordinate)
	r.FillBytes(out[:coordinate])
	s.FillBytes(out[coordinate:])
	return Signed{Attest: attest, Signature: out}, nil
}
