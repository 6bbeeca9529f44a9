package witness

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// keptBucket holds, for each origin, what was cosigned last.
const keptBucket = "witness/kept"

// MaxLogs is how many trails a witness remembers. It never forgets one to make room.
const MaxLogs = 8192

// told is how often a hint about one trail is worth a leaf.
const told = time.Minute

var errRoom = errors.New("no more trails fit")

// Config says who the witness is and what it knows of others. The functions are called
// from any goroutine and must not block.
type Config struct {
	Self   spiffeid.ID
	Key    *Key
	Store  *store.Store                       // remembers; the key must have been made for what it holds
	Log    func(origin string) (Log, bool)    // by signed records; false: nobody's
	Roster func(hash [32]byte) (Roster, bool) // those worked out here, lately
	Now    func() time.Time

	// Refused, where given, hears of each refusal that is a Hint once it is on record.
	// conflict is nil where it proves nothing.
	Refused func(log Log, why Reason, detail string, conflict *Conflict)
}

// Keeper is a witness with its memory. Its methods may be called from any goroutine.
type Keeper struct {
	cfg Config

	mu   sync.Mutex // held over one decision and its commit
	told map[string]time.Time
}

// New makes a witness.
func New(cfg Config) *Keeper { return &Keeper{cfg: cfg, told: map[string]time.Time{}} }

// Add answers one request of add-checkpoint. What is cosigned, and the proof of a fork, is
// durable before it is said. A refusal worth telling becomes a leaf of kind witness.refuse:
// what proves nothing only where the trail's owner asked itself (a relay may have kept an
// old head back), and at most once a minute for a trail.
func (k *Keeper) Add(from spiffeid.ID, body []byte) Answer {
	say := func(status int, why Reason, detail string) Answer {
		return Answer{status, fmt.Appendf(nil, "%s: %s\n", why, detail)}
	}
	req, err := ParseRequest(body)
	if err != nil {
		return say(http.StatusBadRequest, Malformed, err.Error())
	}
	origin, err := claimed(req.Head)
	if err != nil {
		return say(http.StatusBadRequest, Malformed, err.Error())
	}
	log, ok := k.cfg.Log(origin)
	if !ok {
		return say(http.StatusNotFound, Unknown, origin)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var o Outcome
	tell, now := false, k.cfg.Now()
	if err := k.cfg.Store.Update(func(tx *store.Tx) error {
		kept, err := readKept(tx.Get(keptBucket, []byte(origin)))
		if err != nil {
			return err
		}
		o = Decide(kept, log, req, k.cfg.Self, k.cfg.Roster)
		if o.Keep != nil {
			if kept.Key == "" && count(tx) >= MaxLogs {
				return errRoom
			}
			if err := tx.Put(keptBucket, []byte(origin), writeKept(*o.Keep)); err != nil {
				return err
			}
		}
		if tell = o.Conflict != nil || o.Why.Hint() && from == log.Owner && now.Sub(k.told[origin]) >= told; tell {
			return trail.Append(tx, trail.WitnessRefuse, refusal(log, origin, o, req))
		}
		return nil
	}); err != nil {
		return say(http.StatusServiceUnavailable, NotKept, err.Error())
	}
	if tell {
		k.told[origin] = now
		if k.cfg.Refused != nil {
			k.cfg.Refused(log, o.Why, o.Detail, o.Conflict)
		}
	}
	switch {
	case o.Why == "":
		return Answer{o.Status, []byte(k.cfg.Key.cosign(o.Text, now))}
	case o.Status == http.StatusConflict:
		return Answer{o.Status, fmt.Appendf(nil, "%d\n", o.Size)}
	}
	return say(o.Status, o.Why, o.Detail)
}

// refusal is the body of a leaf of kind witness.refuse.
func refusal(log Log, origin string, o Outcome, req Request) map[string]any {
	head := sha256.Sum256(req.Head)
	body := map[string]any{"node": log.Owner.String(), "origin": origin, "why": string(o.Why), "detail": o.Detail, "had": o.Size, "head": head[:]}
	if o.Conflict != nil {
		digest := o.Conflict.Digest()
		body["finding"] = digest[:]
	}
	return body
}

// claimed is whose trail a head says that it is of.
func claimed(head []byte) (string, error) {
	c, err := trail.PeekCheckpoint(head)
	return c.Origin, err
}

func count(tx *store.Tx) (n int) {
	tx.Range(keptBucket, nil, func(_, _ []byte) bool { n++; return n < MaxLogs })
	return n
}

// Kept returns what is remembered of a trail; the zero value where that is nothing.
func (k *Keeper) Kept(origin string) (kept Kept, err error) {
	err = k.cfg.Store.View(func(tx *store.Tx) (err error) {
		kept, err = readKept(tx.Get(keptBucket, []byte(origin)))
		return err
	})
	return kept, err
}

type keptWire struct {
	Key    string `cbor:"1,keyasint"`
	Head   []byte `cbor:"2,keyasint"`
	Forked bool   `cbor:"3,keyasint,omitempty"`
}

func writeKept(k Kept) []byte {
	b, err := statement.Marshal(keptWire{k.Key, k.Head, k.Forked})
	if err != nil {
		panic(err) // a text, bytes and a flag always encode
	}
	return b
}

func readKept(b []byte) (Kept, error) {
	var w keptWire
	if b == nil {
		return Kept{}, nil
	}
	if err := statement.Unmarshal(b, &w); err != nil {
		return Kept{}, err
	}
	c, err := trail.OpenCheckpoint(w.Head, w.Key)
	if err != nil {
		return Kept{}, err
	}
	return Kept{w.Key, c.Size, c.Root, w.Head, w.Forked}, nil
}

// Verifier is the witness's key, as a roster names it.
func (k *Keeper) Verifier() string { return k.cfg.Key.Verifier() }
