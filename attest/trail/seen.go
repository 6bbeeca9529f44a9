package trail

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	mproof "github.com/transparency-dev/merkle/proof"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// SeenDir is the folder of a trail's folder that holds earlier heads with the cosignatures
// of enough witnesses: the times in them say by when the leaves under each existed. The
// files are named by the number of leaves, in twelve digits or more.
const SeenDir = "seen"

// SeenEvery is the least time between two heads that are kept in SeenDir, and how exact the
// times are by which leaves were seen.
const SeenEvery = 10 * time.Minute

// MaxEarlier is the largest encoded Earlier, in bytes.
const MaxEarlier = maxCheckpoint + 64*45

// ErrEarlier means that a head is not shown to lie in the past of another.
var ErrEarlier = errors.New("the earlier head is not in the past of this one")

// replaceWitnessed makes a head the newest that is witnessed, of the folder of one epoch. The
// one before is kept in SeenDir if none is there that came up to SeenEvery before now: so a
// leaf is under a kept head that came at most SeenEvery after the first that covered it.
func replaceWitnessed(dir string, raw []byte, now time.Time) error {
	path := filepath.Join(dir, WitnessedPath)
	old, err := readWitnessed(dir)
	if err == nil && old != nil {
		err = keepSeen(dir, *old, path, now)
	}
	if err != nil && !errors.Is(err, ErrCheckpoint) { // what is no head is no loss
		return err
	}
	if err := durable.Replace(path, raw, 0o644); err != nil {
		return err
	}
	return os.Chtimes(path, now, now) // when it came, by the caller's clock
}

// keepSeen keeps the head that is in the file at path.
func keepSeen(dir string, c Checkpoint, path string, now time.Time) error {
	came, err := os.Stat(path)
	if err != nil {
		return err
	}
	folder := filepath.Join(dir, SeenDir)
	entries, err := os.ReadDir(folder) // in order of size
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if n := len(entries); n > 0 {
		last, err := entries[n-1].Info()
		if err != nil {
			return err
		}
		if since := now.Sub(last.ModTime()); since >= 0 && since < SeenEvery {
			return nil
		}
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	kept := filepath.Join(dir, SeenPath(c.Size))
	if _, err := os.Stat(kept); err == nil {
		return nil
	}
	if err := durable.Replace(kept, c.Raw, 0o644); err != nil {
		return err
	}
	return os.Chtimes(kept, came.ModTime(), came.ModTime())
}

// SeenAfter returns the earliest head of the trail in dir that was kept with cosignatures
// and covers a leaf; false where there is none. Nothing is verified. Errors wrap
// ErrCheckpoint or the file system's.
func SeenAfter(dir string, index uint64) (c Checkpoint, ok bool, err error) {
	sizes, err := seenSizes(dir)
	if err != nil {
		return c, false, err
	}
	for _, n := range sizes {
		if n <= index {
			continue
		}
		raw, err := readFile(filepath.Join(dir, SeenPath(n)), maxCheckpoint)
		if err == nil {
			c, err = PeekCheckpoint(raw)
		}
		if err == nil && c.Size != n {
			err = fmt.Errorf("%w: %s is of %d leaves", ErrCheckpoint, seenName(n), c.Size)
		}
		c.Raw = raw
		return c, err == nil, err
	}
	newest, err := readWitnessed(dir)
	if newest == nil || err != nil || newest.Size <= index {
		return c, false, err
	}
	return *newest, true, nil
}

// Earlier is a head and the proof that it lies in the past of another.
type Earlier struct {
	Proof [][32]byte // from its size to the other's; none where they are of one size
	Head  []byte     // a signed note
}

// Encode writes the hashes in base64, a line each, an empty line, and the note.
func (e Earlier) Encode() (b []byte) {
	for _, h := range e.Proof {
		b = append(base64.StdEncoding.AppendEncode(b, h[:]), '\n')
	}
	return append(append(b, '\n'), e.Head...)
}

// parseEarlier reads what Encode wrote, in its one spelling.
func parseEarlier(b []byte) (e Earlier, err error) {
	if len(b) > MaxEarlier {
		return e, fmt.Errorf("%w: %d bytes, at most %d", ErrEarlier, len(b), MaxEarlier)
	}
	rest := string(b)
	for !strings.HasPrefix(rest, "\n") {
		line, more, ok := strings.Cut(rest, "\n")
		h, err := base64.StdEncoding.Strict().DecodeString(line)
		if !ok || err != nil || len(h) != hashSize || len(e.Proof) == 64 {
			return e, fmt.Errorf("%w: line %d is no hash", ErrEarlier, len(e.Proof)+1)
		}
		e.Proof, rest = append(e.Proof, [32]byte(h)), more
	}
	e.Head = []byte(rest[1:])
	if !bytes.Equal(e.Encode(), b) {
		return e, fmt.Errorf("%w: it is spelled another way than it is written", ErrEarlier)
	}
	return e, nil
}

// EarlierHead is the head of an encoded Earlier, unverified. Errors wrap ErrEarlier.
func EarlierHead(b []byte) ([]byte, error) {
	e, err := parseEarlier(b)
	return e.Head, err
}

// VerifyEarlier reads an encoded Earlier, whose head must be signed by the key and lie in
// the past of head, which the caller has verified. Errors wrap ErrEarlier, ErrCheckpoint
// or ErrKey.
func VerifyEarlier(b []byte, head Checkpoint, vkey string) (Checkpoint, error) {
	e, err := parseEarlier(b)
	if err != nil {
		return Checkpoint{}, err
	}
	c, err := OpenCheckpoint(e.Head, vkey)
	if err != nil {
		return Checkpoint{}, err
	}
	hashes := make([][]byte, len(e.Proof))
	for i := range e.Proof {
		hashes[i] = e.Proof[i][:]
	}
	if c.Origin != head.Origin || c.Size == 0 {
		return Checkpoint{}, fmt.Errorf("%w: it is of %d leaves of %s", ErrEarlier, c.Size, c.Origin)
	}
	if err := mproof.VerifyConsistency(hasher, c.Size, head.Size, hashes, c.Root[:], head.Root[:]); err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrEarlier, err)
	}
	return c, nil
}
