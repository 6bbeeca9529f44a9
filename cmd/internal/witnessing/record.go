package witnessing

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
)

// The names of kind trail.
const (
	KeysName   = "keys"
	forkPrefix = "fork."
)

// MaxRecord is the largest encoded Record, in bytes.
const MaxRecord = 8 << 10

// ErrRecord means that a record of keys is malformed, or that its keys do not vouch for each
// other.
var ErrRecord = errors.New("not a node's record of its trail key and its witness key")

// Record is what a node says of its keys, and who vouches for them: the region's authority
// for the trail key, the trail key for the other.
type Record struct {
	Trail       string // verifier key of its trail; its name is the trail's origin
	Witness     string // verifier key that it cosigns with
	Word        []byte // of the trail key, that the other is its node's: see trail.Delegation
	Endorsement []byte // of the trail key by the authority: see package endorse; none where no TPM holds it
}

type recordWire struct {
	Trail       string `cbor:"1,keyasint"`
	Witness     string `cbor:"2,keyasint"`
	Word        []byte `cbor:"3,keyasint"`
	Endorsement []byte `cbor:"4,keyasint,omitempty"`
}

// NewRecord makes a node's record with its trail key, whose origin is that of an epoch.
func NewRecord(key crypto.Signer, origin, cosigner string, endorsement []byte, now time.Time) (Record, error) {
	vkey, err := trail.VerifierKey(origin, key.Public())
	if err != nil {
		return Record{}, err
	}
	word, err := trail.Delegate(key, origin, cosigner, now)
	return Record{Trail: vkey, Witness: cosigner, Word: word, Endorsement: endorsement}, err
}

// Encode writes the value of the key named keys.
func (r Record) Encode() ([]byte, error) { return statement.Marshal(recordWire(r)) }

// Vouched is a record that was read: its trail key says that the witness key is its node's.
type Vouched struct {
	Record
	Owner spiffeid.ID
	Epoch uint64
	Since time.Time // by the node's own clock
}

// ReadRecord reads what Encode wrote, and verifies that the one key vouches for the other.
// Who vouches for the trail key is for Endorsed to say. Errors wrap ErrRecord.
func ReadRecord(b []byte) (v Vouched, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrRecord, err)
		}
	}()
	var w recordWire
	if len(b) > MaxRecord {
		return v, fmt.Errorf("%d bytes, at most %d", len(b), MaxRecord)
	}
	if err := statement.Unmarshal(b, &w); err != nil {
		return v, err
	}
	d, err := trail.OpenDelegation(w.Word, w.Trail)
	if err != nil {
		return v, err
	}
	v = Vouched{Record: Record(w), Since: d.Since}
	if v.Owner, v.Epoch, err = trail.ParseOrigin(d.Origin); err != nil {
		return v, err
	}
	//bailiwick:check TestForeignKeys/of_a_witness
	if d.To != w.Witness {
		return v, fmt.Errorf("the trail key vouches for %.80s", d.To)
	}
	return v, witness.CheckKey(v.Owner, w.Witness)
}

// Endorsed verifies that the authority of the node's region endorsed its trail key, at some
// time. Errors are those of package endorse.
func (v Vouched) Endorsed(authority *ecdsa.PublicKey) error {
	return endorsed(v.Endorsement, authority, v.Owner, v.Trail)
}

func endorsed(endorsement []byte, authority *ecdsa.PublicKey, owner spiffeid.ID, vkey string) error {
	key, err := trail.PKIX(vkey)
	if err != nil {
		return err
	}
	_, err = endorse.VerifyTrailKey(endorsement, authority, owner, key, time.Time{})
	return err
}

// Convict verifies an accusation: two histories, both signed by the trail key, which the
// authority of the accused's region endorsed. authority finds its key. It returns whose
// trail it is and the epoch. Errors are those of packages witness, trail and endorse, or
// authority's.
func Convict(a witness.Accusation, authority func(spiffeid.TrustDomain) (*ecdsa.PublicKey, error)) (owner spiffeid.ID, epoch uint64, err error) {
	head, err := a.Verify()
	//bailiwick:check TestFalseAccusation/one_history
	if err != nil {
		return owner, 0, err
	}
	if owner, epoch, err = trail.ParseOrigin(head.Origin); err != nil {
		return owner, 0, err
	}
	key, err := authority(owner.TrustDomain())
	if err != nil {
		return owner, 0, err
	}
	//bailiwick:check TestFalseAccusation/another_key
	if err := endorsed(a.Endorsement, key, owner, a.Key); err != nil {
		return owner, 0, err
	}
	return owner, epoch, nil
}

// ForkName is the name of the key that carries an accusation.
func ForkName(digest [32]byte) string { return forkPrefix + hex.EncodeToString(digest[:]) }

// Schema bounds what a node may write below its kind trail. What an accusation is worth is
// for whoever verifies it to say.
func Schema(name string, value []byte) error {
	if name == KeysName {
		_, err := ReadRecord(value)
		return err
	}
	if !strings.HasPrefix(name, forkPrefix) {
		return fmt.Errorf("name %q is neither %s nor %s<digest>", name, KeysName, forkPrefix)
	}
	a, err := witness.ParseAccusation(value)
	if err == nil && ForkName(a.Digest()) != name {
		err = fmt.Errorf("%q is not named by its digest", name)
	}
	return err
}
