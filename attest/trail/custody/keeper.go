package custody

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// File is a file whose digest is in a leaf.
type File struct {
	Name   string // lower case letters, digits and dots
	Digest [32]byte
	Bytes  int64
}

// DirName is the folder of copies in a node's state folder.
const DirName = "custody"

// Config connects a Keeper with its node. What has no default must be given.
type Config struct {
	Self  spiffeid.ID
	Dir   string // of the copies: <state>/custody
	Trail string // this node's own: <state>/trail
	Files string // this node's own files

	// Members are the nodes of the region, this one too or not.
	Members func() []spiffeid.ID
	// Beside are the folders beside a trail whose files say what its heads and leaves rest on, such as who its
	// witnesses are. Copies have them too. What is in a file must be what its name says: the function checks it.
	Beside map[string]func(name string, content []byte) error
	// Ask sends a question to a peer and returns its answer, of at most limit bytes.
	Ask func(ctx context.Context, peer spiffeid.ID, question []byte, limit int) ([]byte, error)
	// File is the file that a leaf names, if it names one.
	File func(trail.Leaf) (File, bool)
	// Vouched says who stands for the key of a trail of which there is no copy here yet, by its
	// genesis. A trail for whose key nobody does is not taken in.
	Vouched func(owner spiffeid.ID, g trail.Genesis) error
	// Found is told once of each owner and epoch whose trail does not continue the copy. Nil: nobody is.
	Found func(owner spiffeid.ID, epoch uint64, err error)

	Copies    int                   // of each trail; zero means 3
	Every     time.Duration         // between two rounds; zero means 5 min
	LostAfter time.Duration         // without an answer another stands in; zero means 3 rounds
	MaxBytes  int64                 // of all copies; zero means 1 GiB
	Rate      int64                 // bytes a second that are asked for; zero means 1 MiB
	Keep      time.Duration         // leaves older than this go, where their owner's trail says that they may; zero: none do
	Log       *slog.Logger          // nil: discard
	Metrics   prometheus.Registerer // nil: none
}

// Keeper holds copies of other nodes' trails and gives its own to its custodians. Answer, Status,
// Custodians and Room may be called from any goroutine, Run once.
type Keeper struct {
	cfg    Config
	status status

	// What follows is Run's.
	copies map[string]*trail.Copy // by folder
	files  map[spiffeid.ID]map[string]File
	silent map[spiffeid.ID]time.Time // since when, by custodian
	told   map[string]bool
	seen   map[string]string // by folder: the newest witnessed head up to which earlier ones were taken over, and of whom
	used   int64

	own       grown             // this node's trail at the end of the last round
	removable map[string]uint64 // by folder: leaves below may be removed, as their owner's trail says
}

// New makes a keeper. It reads nothing yet.
func New(cfg Config) *Keeper {
	if cfg.Copies == 0 {
		cfg.Copies = 3
	}
	if cfg.Every == 0 {
		cfg.Every = 5 * time.Minute
	}
	if cfg.LostAfter == 0 {
		cfg.LostAfter = 3 * cfg.Every
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 1 << 30
	}
	if cfg.Rate == 0 {
		cfg.Rate = 1 << 20
	}
	if cfg.Found == nil {
		cfg.Found = func(spiffeid.ID, uint64, error) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{cfg: cfg, copies: map[string]*trail.Copy{}, files: map[spiffeid.ID]map[string]File{}, silent: map[spiffeid.ID]time.Time{}, told: map[string]bool{}, seen: map[string]string{}, removable: map[string]uint64{}}
	k.status.register(cfg.Metrics, cfg.Log)
	return k
}

// Run does a round each Config.Every, about, until ctx ends: the nodes of a region that starts as one
// shall not ask as one.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(k.cfg.Every/2 + rand.N(k.cfg.Every)):
		}
		k.round(ctx)
	}
}

// round visits every trail that this node may have to do with.
func (k *Keeper) round(ctx context.Context) {
	members := k.cfg.Members()
	owners := slices.Clone(members)
	entries, err := os.ReadDir(k.cfg.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.cfg.Log.Error("custody: the copies cannot be read", "err", err)
		return
	}
	held := map[spiffeid.ID]bool{}
	for _, e := range entries {
		if id, ok := owner(k.cfg.Self.TrustDomain(), e.Name()); ok && e.IsDir() {
			owners, held[id] = append(owners, id), true
		}
	}
	k.used = size(k.cfg.Dir)
	var s []Held
	slices.SortFunc(owners, func(a, b spiffeid.ID) int { return cmpID(a, b) })
	for _, o := range slices.Compact(owners) {
		if o == k.cfg.Self || ctx.Err() != nil {
			continue
		}
		rank := Rank(o, members)
		first := rank[:min(len(rank), k.cfg.Copies)]
		at := slices.Index(rank, k.cfg.Self)
		mine := at >= 0 && at < len(first)
		if !mine && (at >= 0 && at < 2*k.cfg.Copies || held[o]) {
			mine = k.standsIn(ctx, o, first, held[o])
		}
		if mine {
			k.mirror(ctx, o, rank[:min(len(rank), 2*k.cfg.Copies)])
			k.prune(o)
			held[o] = true
		}
		if held[o] {
			s = append(s, k.describe(o, at >= 0 && at < len(first)))
		}
	}
	k.status.set(s, k.askCustodians(ctx, members), size(k.cfg.Dir))
}

// standsIn reports whether one of an owner's custodians was silent for long. Where none was, and all
// of them have what this node has, the copy here is removed.
func (k *Keeper) standsIn(ctx context.Context, owner spiffeid.ID, first []spiffeid.ID, held bool) (lost bool) {
	spare := held && len(first) > 0
	for _, c := range first {
		_, err := k.ask(ctx, c, question{Owner: owner.String(), From: headOnly})
		if err == nil {
			delete(k.silent, c)
			spare = spare && k.hasAll(ctx, owner, c)
			continue
		}
		spare = false
		if _, ok := k.silent[c]; !ok {
			k.silent[c] = time.Now()
		}
		//bailiwick:check TestDeletedCustodian
		lost = lost || time.Since(k.silent[c]) >= k.cfg.LostAfter
	}
	if spare && ctx.Err() == nil {
		k.forget(owner)
	}
	return lost
}

// hasAll reports whether a custodian holds all epochs of a trail at least as far as this node.
func (k *Keeper) hasAll(ctx context.Context, owner, custodian spiffeid.ID) bool {
	epochs, err := trail.Epochs(k.place(owner).trail)
	if err != nil {
		return false
	}
	for _, e := range epochs {
		c, err := k.open(owner, e)
		if err != nil {
			return false
		}
		a, err := k.ask(ctx, custodian, question{Owner: owner.String(), Epoch: e, From: headOnly})
		if err != nil {
			return false
		}
		if head, err := trail.PeekCheckpoint(a.Head); err != nil || head.Size < c.Head().Size {
			return false
		}
	}
	return true
}

func (k *Keeper) forget(owner spiffeid.ID) {
	dir := filepath.Dir(k.place(owner).trail)
	for name := range k.copies {
		if filepath.Dir(filepath.Dir(name)) == dir {
			delete(k.copies, name)
		}
	}
	delete(k.files, owner)
	if err := os.RemoveAll(dir); err != nil {
		k.cfg.Log.Warn("custody: a copy that others hold could not be removed", "owner", owner, "err", err)
	}
}

// ask asks one question, and takes the time that the answer's size may take.
func (k *Keeper) ask(ctx context.Context, peer spiffeid.ID, q question) (a answer, err error) {
	if peer == k.cfg.Self {
		return a, fmt.Errorf("%w: it is this node", ErrAnswer)
	}
	raw, err := statement.Marshal(q)
	if err != nil {
		return a, err
	}
	limited, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	b, err := k.cfg.Ask(limited, peer, raw, MaxAnswer)
	if err != nil {
		return a, err
	}
	select {
	case <-time.After(time.Duration(len(b)) * time.Second / time.Duration(k.cfg.Rate)):
	case <-ctx.Done():
	}
	return parseAnswer(b)
}

// size is how many bytes the files of a folder have.
func size(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error { // what cannot be read takes no room
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
