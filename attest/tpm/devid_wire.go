package tpm

import (
	"encoding/json"
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// MaxDevID is the largest message of "tpm_devid" that is looked at, in bytes.
const MaxDevID = 64 << 10

const (
	bindTag    = "bailiwick tpm_devid binding/1"
	certifyTag = "bailiwick devid/1"
)

// devidPayload opens SPIRE's node attestation "tpm_devid": JSON, names as in
// SPIRE. Public areas are TPMT_PUBLIC, CertifiedDevID is a TPMS_ATTEST,
// CertificationSignature a TPMT_SIGNATURE.
type devidPayload struct {
	DevIDCert              [][]byte // DER, the DevID's own first
	DevIDPub               []byte
	EKCert                 []byte
	EKPub                  []byte
	AKPub                  []byte
	CertifiedDevID         []byte
	CertificationSignature []byte
}

type devidChallenge struct {
	DevID          []byte // nonce for the DevID key to sign
	CredActivation *devidCredential
}

type devidCredential struct {
	Credential []byte // TPM2B_ID_OBJECT without its size
	Secret     []byte // TPM2B_ENCRYPTED_SECRET without its size
}

type devidResponse struct {
	DevID          []byte // signature over the SHA-256 of the nonce
	CredActivation []byte // what the credential hid
	// BailiwickKeyBinding is ours: SPIRE's server does not look at it.
	BailiwickKeyBinding *devidBinding `json:",omitempty"`
}

// devidBinding says that the key of the CSR lives in the same TPM. The AK
// certifies it with the qualifying data
//
//	SHA-256(lp("bailiwick tpm_devid binding/1") lp(nonce) lp(exporter) lp(SPKI) lp(FeedPub))
//
// so that it is of no use in another session, over another channel or for another
// key.
type devidBinding struct {
	SVIDPub   []byte // TPMT_PUBLIC
	FeedPub   []byte `json:",omitempty"` // PKIX, P-256
	Attest    []byte
	Signature []byte
	Quoter    *devidQuoter `json:",omitempty"`
}

// devidQuoter is the AK of "bailiwick_tpm", certified by SPIRE's with the same
// qualifying data: with it the node can be endorsed, and quote for its peers.
type devidQuoter struct {
	Public    []byte // TPMT_PUBLIC
	Attest    []byte
	Signature []byte
}

// decodeJSON reads a message of SPIRE's. Unlike our own formats, those are open:
// unknown names are other people's extensions.
func decodeJSON(b []byte, into any) error {
	if len(b) > MaxDevID {
		return fmt.Errorf("%w: %d bytes, at most %d", statement.ErrMalformed, len(b), MaxDevID)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%w: %w", statement.ErrMalformed, err)
	}
	return nil
}
