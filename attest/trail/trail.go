package trail

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

var (
	// ErrDamaged means the folder does not hold what its last head says. Keep it
	// as it is for the auditors, and start a new epoch.
	ErrDamaged = errors.New("the trail on disk is not the one that was signed: keep it, and start a new epoch")

	// ErrOtherStore means the store's outbox and the trail tell different
	// histories: one of the two was put back from a copy. Start a new epoch.
	ErrOtherStore = errors.New("the trail was fed from another store, or one of the two was restored: start a new epoch")

	// ErrSigner means the trail key does not sign. Leaves wait in the outbox;
	// see to the TPM.
	ErrSigner = errors.New("the trail key does not sign")

	// ErrClosed means the trail was closed before.
	ErrClosed = errors.New("the trail is closed")
)

// Config says whose trail it is and where it lives.
type Config struct {
	// Dir holds the trails of all epochs: <state>/trail. It is made if missing.
	Dir string

	// Node and Epoch name the trail; see Origin.
	Node  spiffeid.ID
	Epoch uint64

	// Key signs the heads: ECDSA P-256, in a TPM or in software. It must be the
	// same for the whole epoch.
	Key crypto.Signer

	// Protection says in the genesis how Key is kept: "tpm", or "software",
	// which is also what empty means.
	Protection string

	// Endorsement, where there is one, goes into the genesis: the issuer's word
	// on the attestation key that certifies Key. At most some 8 KiB.
	Endorsement []byte

	// Store is where the leaves come from. The trail is the one reader of its
	// Wake, and the only one that trims.
	Store *store.Store

	// Roster, where given, is the hash of the roster that each new head names: who its
	// witnesses are. Zero names that of the head before. It is called from any goroutine.
	Roster func() [32]byte

	// OnHead, where given, hears that Head has changed. It must not block.
	OnHead func()

	// Every is the least time between two drains; zero means one second. While leaves keep
	// coming, those of routine kinds (Kind.Routine) wait for others, up to ten times as long.
	Every time.Duration

	Log     *slog.Logger          // nil: discard
	Metrics prometheus.Registerer // nil: none
}

// Head is what the node says of its trail now.
type Head struct {
	Size uint64   // leaves under the head
	Root [32]byte // of the tree of these leaves
	At   time.Time
	// Unwitnessed is true until SetWitnessed has had this very head. Such a head
	// binds the node, and shows nobody that others were given the same one.
	Unwitnessed bool
	Raw         []byte // the signed note
}

// Trail is the writer of one node's trail in one epoch. Its methods may be
// called from any goroutine.
type Trail struct {
	cfg   Config
	every time.Duration
	log   *slog.Logger

	w       *writer // owned by run once Open returned
	healthy bool    // owned by run

	head      atomic.Pointer[Head]
	witnessed atomic.Pointer[Checkpoint] // the newest that SetWitnessed had; nil: none
	cosigned  chan cosigned
	err       atomic.Pointer[error]
	vkey      string
	flush     chan chan error
	stop      chan struct{}
	done      chan struct{}
	close     sync.Once
	counts    *metrics

	mu   sync.Mutex // guards gaps, for a few instructions
	gaps map[string]uint64
	gap  chan struct{} // tells run that there are gaps
}

// Open continues the trail of an epoch, or begins it with a genesis, and
// drains the outbox from then on. Errors wrap ErrNode, ErrKey, ErrCheckpoint
// (the folder's head is by another key), ErrDamaged, ErrOtherStore, ErrSigner,
// the store's or the file system's. Close the Trail before the Store.
func Open(cfg Config) (*Trail, error) {
	origin, err := Origin(cfg.Node, cfg.Epoch)
	if err != nil {
		return nil, err
	}
	s, err := newSigner(origin, cfg.Key)
	if err != nil {
		return nil, err
	}
	if cfg.OnHead == nil {
		cfg.OnHead = func() {}
	}
	if cfg.Roster == nil {
		cfg.Roster = func() [32]byte { return [32]byte{} }
	}
	t := &Trail{
		cfg: cfg, every: cfg.Every, log: cfg.Log, vkey: s.vkey, healthy: true,
		cosigned: make(chan cosigned), flush: make(chan chan error), stop: make(chan struct{}), done: make(chan struct{}),
		gaps: map[string]uint64{}, gap: make(chan struct{}, 1),
	}
	if t.every <= 0 {
		t.every = time.Second
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	dir := filepath.Join(cfg.Dir, fmt.Sprint(cfg.Epoch))
	if t.w, err = openWriter(dir, s, cfg.Roster); err != nil {
		return nil, fmt.Errorf("trail %s: %w", dir, err)
	}
	if err := t.rememberWitnessed(); err != nil {
		return nil, fmt.Errorf("trail %s: %w", dir, err)
	}
	if err := t.bind(origin); err != nil {
		return nil, fmt.Errorf("trail %s: %w", dir, err)
	}
	t.show()
	t.counts = t.register(cfg.Metrics)
	err = t.drain()
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrOtherStore) {
		t.counts.unregister()
		return nil, fmt.Errorf("trail %s: %w", dir, err)
	}
	t.report(err) // a full disk or a failing key may pass
	go t.run()
	return t, nil
}

// Head returns the last published head.
func (t *Trail) Head() Head { return *t.head.Load() }

// VerifierKey is the public key of the heads, as Verify takes it.
func (t *Trail) VerifierKey() string { return t.vkey }

// Dir is the folder of this epoch, as Verify takes it.
func (t *Trail) Dir() string { return t.w.dir }

// Epoch returns the epoch whose trail this is.
func (t *Trail) Epoch() uint64 { return t.cfg.Epoch }

// Err is why the last drain failed, or nil. While it is not nil the outbox
// keeps what is new and the trail tries again every second or so.
func (t *Trail) Err() error {
	if e := t.err.Load(); e != nil {
		return *e
	}
	return nil
}

// Gap records that events went unrecorded: containment acts first and, where
// its leaf could not be stored, says so here. why is a short fixed text. The
// leaf is written at the next drain that succeeds; a crash before loses it.
func (t *Trail) Gap(count uint64, why string) {
	if count == 0 {
		return
	}
	t.mu.Lock()
	if _, ok := t.gaps[why]; !ok && len(t.gaps) >= maxReasons {
		why = variousReasons
	}
	t.gaps[clip(why)] += count
	t.mu.Unlock()
	t.counts.gap(count)
	select {
	case t.gap <- struct{}{}:
	default:
	}
}

// Flush drains now. When it returns nil, everything committed to the store
// before the call is under a published head.
func (t *Trail) Flush(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case t.flush <- answer:
	case <-t.done:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close drains what is left and stops. Its error is that of the last drain:
// what it could not drain stays in the outbox for the next start.
func (t *Trail) Close() error {
	t.close.Do(func() { close(t.stop) })
	<-t.done
	return t.Err()
}

// run owns the writer.
func (t *Trail) run() {
	defer close(t.done)
	defer t.counts.unregister()
	pace := cadence{every: t.every}
	pace.drained(time.Now(), t.Err())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var due <-chan time.Time // nil while nothing waits
		if !pace.due.IsZero() {
			timer.Reset(time.Until(pace.due))
			due = timer.C
		}
		select {
		case <-t.stop:
			t.report(t.drain())
			return
		case answer := <-t.flush:
			err := t.drain()
			t.report(err)
			pace.drained(time.Now(), err)
			answer <- err
		case c := <-t.cosigned:
			c.answer <- t.keepWitnessed(c.head)
		case <-t.cfg.Store.Wake():
			t.look(&pace)
		case <-t.gap:
			pace.hurry()
		case <-due:
			err := t.drain()
			t.report(err)
			pace.drained(time.Now(), err)
		}
	}
}

// look tells the pace of leaves that are new in the outbox.
func (t *Trail) look(pace *cadence) {
	fresh, err := t.cfg.Store.Outbox(max(pace.seen, t.w.seq), manyRoutine)
	if err != nil {
		pace.hurry() // the drain meets it again
	}
	var kinds []string
	for _, e := range fresh {
		kinds, pace.seen = append(kinds, e.Kind), e.Seq
	}
	pace.came(kinds)
}

// report keeps the outcome of a drain and logs when it turns.
func (t *Trail) report(err error) {
	t.err.Store(&err)
	if err != nil {
		t.counts.failure()
	}
	switch {
	case err != nil && t.healthy:
		t.log.Error("trail: leaves wait in the outbox", "err", err)
	case err == nil && !t.healthy:
		t.log.Info("trail: draining again", "size", t.w.head.Size)
	}
	t.healthy = err == nil
}
