package authority

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// Limits classes an epoch may be given with.
const (
	ClassNode       = "node"
	ClassGateway    = "gateway"
	ClassProbation  = "probation"
	ClassUnattested = "unattested"
)

var (
	// ErrEpochRequest means a request for epochs is out of bounds.
	ErrEpochRequest = errors.New("epoch request is out of bounds")

	// ErrEpochRate means a node was given new epochs too often of late. The message
	// says when it may ask again; the epochs it has stay good.
	ErrEpochRate = errors.New("too many new epochs for this node")

	// ErrEpochState means what is stored about epochs cannot be read. No epoch is
	// given out until the store is put right: a guess could give one out twice.
	ErrEpochState = errors.New("stored epoch state is damaged")
)

// maxFloorJump bounds how far a node's own counter may push its numbers at once,
// so that no node can spend all of them.
const maxFloorJump = 1 << 32

// grantCaps bound how often a node gets new epochs beside its first. An epoch is a feed with
// quotas of its own, and it is the node that says its spare is spent. Restored disks
// and cleared TPMs need one grant each.
var grantCaps = []struct {
	most   int
	within time.Duration
}{{4, time.Hour}, {12, 24 * time.Hour}}

// EpochRequest asks for the epochs of one feed key.
type EpochRequest struct {
	Node     spiffeid.ID
	FeedKey  []byte // PKIX DER of the P-256 feed key
	Class    string // ClassNode or ClassGateway, from the enrolment entry; empty: ClassNode
	Attested bool   // by a TPM; if not, the class is ClassUnattested
	Floor    uint64 // the node's TPM epoch counter: numbers are above it, and new ones once it has grown
	Used     uint64 // highest epoch this key wrote in; 0: none. At or past the spare: new numbers

	By spiffeid.ID // the issuer that asks, for the trail; may be zero
}

// Grant is two epochs of one feed key. The spare is for a restored disk. A node
// bumps its TPM's counter when it spends the spare, so a grant made under a lower
// counter is used up, also for an old copy of the disk that knows nothing of it.
type Grant struct {
	Epoch uint64
	Spare uint64 // always above Epoch
	Class string
}

// Epochs gives out epoch numbers. Its methods may be called from any goroutine.
type Epochs struct{ st *store.Store }

// NewEpochs returns the epochs kept in a store, of which there must be one per region.
func NewEpochs(st *store.Store) *Epochs { return &Epochs{st} }

// restoreGap is how far above everything that a restored disk knows of new epochs
// begin: it stands for all that was given out since the copy was made.
const restoreGap = 1 << 20

var floorKey = []byte("floor") // in floorBucket: u64, numbers up to it are not given out

const (
	floorBucket = "authority/epochs-floor"
	nodeBucket  = "authority/epochs" // SPIFFE ID -> nodeEpochs
	grantBucket = "authority/grants" // SPIFFE ID, 0, SHA-256 of the feed key -> grantWire
)

type nodeEpochs struct {
	Highest   uint64  `cbor:"1,keyasint"`           // given out so far
	Min       uint64  `cbor:"2,keyasint"`           // grants below are void: the node was released since
	Probation int64   `cbor:"3,keyasint"`           // Unix seconds
	Given     []int64 `cbor:"4,keyasint,omitempty"` // when, Unix seconds: grants that grantCaps still count
}

// give counts a new grant, or returns when it may be made. What the clock has not
// reached, since it was set back, does not count.
func (n *nodeEpochs) give(now time.Time) (wait time.Time, ok bool) {
	if n.Highest == 0 {
		return time.Time{}, true // the first
	}
	within := func(d time.Duration) (in []int64) {
		for _, at := range n.Given {
			if age := now.Unix() - at; age >= 0 && age < int64(d/time.Second) {
				in = append(in, at)
			}
		}
		return in
	}
	longest := time.Duration(0)
	for _, c := range grantCaps {
		longest = max(longest, c.within)
		in := within(c.within)
		if len(in) < c.most {
			continue
		}
		if free := time.Unix(in[len(in)-c.most], 0).Add(c.within); free.After(wait) {
			wait = free
		}
	}
	if !wait.IsZero() {
		return wait, false
	}
	n.Given = append(within(longest), now.Unix())
	return time.Time{}, true
}

type grantWire struct {
	Epoch uint64 `cbor:"1,keyasint"`
	Spare uint64 `cbor:"2,keyasint"`
	Floor uint64 `cbor:"3,keyasint,omitempty"` // EpochRequest.Floor when it was made
}

type floorLeaf struct {
	Floor uint64 `cbor:"floor"` // every epoch from now on is above it
}

type epochLeaf struct {
	Node  string `cbor:"node"`
	Epoch uint64 `cbor:"epoch"`
	Spare uint64 `cbor:"spare"`
	Class string `cbor:"class"`
	By    string `cbor:"by,omitempty"` // the issuer that asked
}

// Restored is to be called at a start on a disk that may be an old copy of itself: what
// was given out since is not known here. All grants are void, and new ones are far
// above them.
func (e *Epochs) Restored() error {
	return e.st.Update(func(tx *store.Tx) error {
		var floor uint64
		if err := read(tx, floorBucket, floorKey, &floor); err != nil {
			return err
		}
		var bad error
		tx.Range(nodeBucket, nil, func(k, _ []byte) bool {
			var n nodeEpochs
			if bad = read(tx, nodeBucket, k, &n); bad != nil {
				return false
			}
			floor = max(floor, n.Highest)
			return true
		})
		if bad != nil {
			return bad
		}
		floor += restoreGap
		return errors.Join(write(tx, floorBucket, floorKey, floor), leaf(tx, "authority.epoch", floorLeaf{floor}))
	})
}

// Allocate returns the epochs of a feed key, durably given out, with a trail leaf
// of kind "authority.epoch" when they are new. An error means nothing was given
// out, or that it was and nobody knows: asking again gives the same numbers.
// Errors wrap ErrEpochRequest, ErrEpochRate, ErrEpochState or the store's.
func (e *Epochs) Allocate(now time.Time, r EpochRequest) (g Grant, err error) {
	class, err := r.class()
	if err != nil {
		return Grant{}, err
	}
	hash := sha256.Sum256(r.FeedKey)
	key := append(append([]byte(r.Node.String()), 0), hash[:]...)
	err = e.st.Update(func(tx *store.Tx) error {
		var floor uint64
		var node nodeEpochs
		var have grantWire
		if err := read(tx, floorBucket, floorKey, &floor); err != nil {
			return err
		}
		if err := read(tx, nodeBucket, []byte(r.Node.String()), &node); err != nil {
			return err
		}
		if err := read(tx, grantBucket, key, &have); err != nil {
			return err
		}
		if r.Attested && now.Unix() < node.Probation {
			class = ClassProbation
		}
		if have.Epoch != 0 && have.Epoch >= node.Min && have.Epoch > floor && r.Used < have.Spare && r.Floor <= have.Floor {
			g = Grant{have.Epoch, have.Spare, class}
			return nil
		}
		base := max(node.Highest, r.Floor, r.Used)
		if base-node.Highest > maxFloorJump {
			return fmt.Errorf("%w: %s asks above %d, given out is %d", ErrEpochRequest, r.Node, base, node.Highest)
		}
		if wait, ok := node.give(now); !ok {
			return fmt.Errorf("%w: %s may have more at %s", ErrEpochRate, r.Node, wait.UTC().Format(time.RFC3339))
		}
		base = max(base, floor, node.Min-min(node.Min, 1))
		g = Grant{base + 1, base + 2, class}
		node.Highest = g.Spare
		return errors.Join(
			write(tx, nodeBucket, []byte(r.Node.String()), node),
			write(tx, grantBucket, key, grantWire{g.Epoch, g.Spare, r.Floor}),
			leaf(tx, "authority.epoch", epochLeaf{r.Node.String(), g.Epoch, g.Spare, g.Class, r.By.String()}),
		)
	})
	if err != nil {
		return Grant{}, fmt.Errorf("allocate epochs of %s: %w", r.Node, err)
	}
	return g, nil
}

func (r EpochRequest) class() (string, error) {
	switch {
	case r.Node.IsZero() || len(r.FeedKey) == 0 || len(r.FeedKey) > 1024:
		return "", fmt.Errorf("%w: node %q, feed key of %d bytes", ErrEpochRequest, r.Node, len(r.FeedKey))
	case r.Class == ClassUnattested && !r.Attested:
		return ClassUnattested, nil
	case r.Class != "" && r.Class != ClassNode && r.Class != ClassGateway:
		return "", fmt.Errorf("%w: class %q, must be %s or %s", ErrEpochRequest, r.Class, ClassNode, ClassGateway)
	case !r.Attested:
		return ClassUnattested, nil
	case r.Class == "":
		return ClassNode, nil
	}
	return r.Class, nil
}

// retire voids all grants of a node and returns the first epoch above them, for
// a release, which forgets how often the node was given any. Until the end of probation new grants have ClassProbation.
func retire(tx *store.Tx, node spiffeid.ID, until time.Time) (uint64, error) {
	n, err := vacant(tx, node)
	if err != nil {
		return 0, err
	}
	n.Probation = max(n.Probation, until.Unix())
	n.Given = nil
	return n.Min, write(tx, nodeBucket, []byte(node.String()), n)
}

// vacant is what is known of a node's epochs, with Min above all that were given out. It writes nothing.
func vacant(tx *store.Tx, node spiffeid.ID) (n nodeEpochs, err error) {
	err = read(tx, nodeBucket, []byte(node.String()), &n)
	n.Min = max(n.Highest+1, n.Min)
	return n, err
}

func read(tx *store.Tx, bucket string, key []byte, v any) error {
	b := tx.Get(bucket, key)
	if b == nil {
		return nil
	}
	if err := statement.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %s/%q: %w", ErrEpochState, bucket, key, err)
	}
	return nil
}

func write(tx *store.Tx, bucket string, key []byte, v any) error {
	b, err := statement.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Put(bucket, key, b)
}

func leaf(tx *store.Tx, kind string, v any) error {
	b, err := statement.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Leaf(kind, b)
}
