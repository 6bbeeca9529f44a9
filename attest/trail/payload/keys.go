package payload

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
)

// ErrErased means that the key of a box was destroyed. The error is, or wraps, an *ErasedError.
var ErrErased = errors.New("the payload was erased")

// ErasedError tells by which order.
type ErasedError struct{ Erasure Erasure }

func (e *ErasedError) Error() string        { return e.Erasure.String() }
func (e *ErasedError) Is(target error) bool { return target == ErrErased }

// ErrNoKey means that the key of a box is not here: the box is a copy, or its key went with the last
// segment of its day. Ask the node that sealed it.
var ErrNoKey = errors.New("the payload is sealed, and its key is not here")

// Keys are the keys of a node, for one process. All of them are in memory, about 250 bytes each. Its
// methods may be called concurrently.
type Keys struct {
	dir   string
	store *store.Store
	steps func(step string) error // breaks a step of what changes files, in tests

	files  sync.Mutex // held by whoever changes a file, and taken before mu
	mu     sync.Mutex
	days   map[string]*dayKeys
	serial uint64
	fresh  map[place]*freshKey
}

// dayKeys are the keys of one day.
type dayKeys struct {
	list  []*key
	ids   map[string]*key
	scope map[string]*key // those in use
}

func newDay(list []*key) *dayKeys {
	d := &dayKeys{ids: map[string]*key{}, scope: map[string]*key{}}
	for _, k := range list {
		d.add(k)
	}
	return d
}

func (d *dayKeys) add(k *key) {
	d.list = append(d.list, k)
	d.ids[string(k.ID)] = k
	if k.Erased == nil {
		d.scope[k.scope()] = k
	}
}

// find returns a key of its own for the caller, whom no erasure disturbs; nil where there is none.
func (d *dayKeys) find(id []byte) *key {
	if d == nil || d.ids[string(id)] == nil {
		return nil
	}
	return d.ids[string(id)].clone()
}

// Open begins or continues the keys in dir. All orders that were ever given are carried out before it
// returns. Errors wrap ErrKeys, or are the store's and the file system's.
func Open(dir string, s *store.Store) (*Keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := sweep(dir); err != nil {
		return nil, err
	}
	k := &Keys{dir: dir, store: s, days: map[string]*dayKeys{}, fresh: map[place]*freshKey{}}
	names, err := days(dir)
	if err != nil {
		return nil, err
	}
	for _, day := range names {
		list, torn, err := readDay(dir, day)
		if err == nil {
			err = truncate(filepath.Join(dir, day), torn)
		}
		if err != nil {
			return nil, err
		}
		k.days[day] = newDay(list)
		for _, one := range list {
			k.serial = max(k.serial, one.Serial)
		}
	}
	orders, err := readOrders(s)
	if err != nil {
		return nil, err
	}
	for _, o := range orders {
		k.serial = max(k.serial, o.Serial)
		if _, err := k.carryOut(o); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// truncate cuts off a frame that was not whole, so that the next one does not follow it.
func truncate(path string, size int) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() == int64(size) {
		return err
	}
	return os.Truncate(path, int64(size))
}

// Seal puts a payload into a box, under the key of its scope and day, for the record of that name. A
// first key of a scope and day is on the disk when it returns. Errors are the file system's: what
// cannot be sealed must not be written.
func (k *Keys) Seal(s Scope, at time.Time, name string, payload []byte) (Box, error) {
	day := dayOf(at)
	one, err := k.keyOf(s, day)
	if err != nil {
		return Box{}, fmt.Errorf("key of a payload: %w", err)
	}
	nonce := make([]byte, nonceSize)
	rand.Read(nonce) // never fails
	box, err := seal(one.Secret, nonce, name, payload)
	return Box{Key: day + "/" + hex.EncodeToString(one.ID), Box: box}, err
}

// Open opens the box of the record of that name. Errors wrap ErrErased, ErrNoKey or ErrBox.
func (k *Keys) Open(b Box, name string) ([]byte, error) {
	day, id, err := b.place()
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	found := k.days[day].find(id)
	k.mu.Unlock()
	return found.open(b, name)
}

// place is where a box's key is.
func (b Box) place() (day string, id []byte, err error) {
	day, digits, _ := strings.Cut(b.Key, "/")
	id, err = hex.DecodeString(digits)
	if _, bad := time.Parse(time.DateOnly, day); bad != nil || err != nil || len(id) != idSize {
		return "", nil, fmt.Errorf("%w: key %q", ErrBox, b.Key)
	}
	return day, id, nil
}

func (k *key) open(b Box, name string) ([]byte, error) {
	switch {
	case k == nil:
		return nil, fmt.Errorf("%w: %s", ErrNoKey, b.Key)
	case k.Erased != nil:
		return nil, &ErasedError{*k.Erased}
	}
	return unseal(k.Secret, name, b.Box)
}

// Count says how many keys an order would destroy now, and of how many days.
func (k *Keys) Count(o Order) (keys, inDays int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.count(o.dated())
}

func (k *Keys) count(o Order) (keys, inDays int) {
	for day, d := range k.days {
		before := keys
		for _, one := range d.list {
			if o.covers(day, one) {
				keys++
			}
		}
		if keys > before {
			inDays++
		}
	}
	return keys, inDays
}

func (o Order) dated() Order {
	if !o.Before.IsZero() {
		o.Day = dayOf(o.Before)
	}
	return o
}

// Erase destroys keys. tell is called within the transaction that makes the order stand, before any
// key goes: it records who asked. Not recorded, not erased. An error after that, of the file system, leaves
// an order that stands: Open carries it out. Where no key is covered, nothing is recorded, and the order returned
// has no ID. Errors wrap ErrOrder, or are tell's, the store's and the file system's.
func (k *Keys) Erase(o Order, now time.Time, tell func(*store.Tx, Order) error) (Order, error) {
	if err := o.Check(); err != nil {
		return o, err
	}
	k.files.Lock()
	defer k.files.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	o = o.dated()
	o.Serial, o.At = k.serial, now.Unix()
	if o.Keys, _ = k.count(o); o.Keys == 0 {
		return o, nil
	}
	id := make([]byte, idSize)
	rand.Read(id)
	o.ID = hex.EncodeToString(id)
	err := k.store.Update(func(tx *store.Tx) error {
		if err := tell(tx, o); err != nil {
			return err
		}
		return o.write(tx)
	})
	if err != nil {
		return o, err
	}
	_, err = k.carryOut(o)
	return o, err
}

// carryOut destroys what an order that stands covers. It may be done again at any time.
func (k *Keys) carryOut(o Order) (n int, err error) {
	for day, d := range k.days {
		list := slices.Clone(d.list)
		hit := 0
		for i, one := range list {
			if o.covers(day, one) {
				list[i] = &key{ID: one.ID, Serial: one.Serial, Erased: &Erasure{o.ID, o.At, o.By}}
				hit++
			}
		}
		if hit == 0 {
			continue
		}
		if err := k.rewrite(day, list); err != nil {
			return n, fmt.Errorf("erase keys of %s: %w", day, err)
		}
		for _, one := range d.list {
			if o.covers(day, one) {
				clear(one.Secret)
			}
		}
		k.days[day] = newDay(list)
		n += hit
	}
	return n, nil
}

// rewrite puts a day's file in place of the one before, which is overwritten then.
func (k *Keys) rewrite(day string, list []*key) error {
	var b []byte
	for _, one := range list {
		frame, err := one.frame()
		if err != nil {
			return err
		}
		b = append(b, frame...)
	}
	path := filepath.Join(k.dir, day)
	old, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer old.Close()
	if err := k.step("before"); err != nil {
		return err
	}
	if err := durable.Replace(path, b, 0o600); err != nil {
		return err
	}
	if err := k.step("after"); err != nil {
		return err
	}
	return overwrite(old)
}

func (k *Keys) step(name string) error {
	if k.steps == nil {
		return nil
	}
	return k.steps(name)
}

// Forget removes the keys, and what is left of keys, of the days before a time: for those whose boxes
// are all gone. Errors are the file system's.
func (k *Keys) Forget(before time.Time) error {
	k.files.Lock()
	defer k.files.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	for day := range k.days {
		if day >= dayOf(before) {
			continue
		}
		if err := shred(filepath.Join(k.dir, day)); err != nil {
			return err
		}
		delete(k.days, day)
	}
	return nil
}

// Reader opens boxes with the keys in a folder, for whoever reads a node's files while it may run. It
// reads a day when it first needs it, and is for one goroutine.
type Reader struct {
	dir  string
	days map[string]*dayKeys
}

// NewReader reads from <state>/payload-keys. A folder that is not there has no keys.
func NewReader(dir string) *Reader { return &Reader{dir: dir, days: map[string]*dayKeys{}} }

// Open is Keys.Open, and may also fail with ErrKeys or the file system's errors.
func (r *Reader) Open(b Box, name string) ([]byte, error) {
	day, id, err := b.place()
	if err != nil {
		return nil, err
	}
	if r.days[day] == nil {
		list, _, err := readDay(r.dir, day)
		if err != nil {
			return nil, err
		}
		r.days[day] = newDay(list)
	}
	return r.days[day].find(id).open(b, name)
}
