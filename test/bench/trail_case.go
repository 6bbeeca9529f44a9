package main

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// caseFile is a case file of some leaves among many, made by the program as it ships, and the entries of it
// in a folder.
type caseFile struct {
	program, file, trust, entries string
	plain                         int // bytes of the same leaves as lines of JSON
}

const caseSubject = "spiffe://east.example.org/workload/suspect"

// newCaseFile makes a trail of so many leaves, of which some are about one subject, and its case file.
func newCaseFile(dir string, s size, others, about int) (c caseFile, err error) {
	if s == tiny {
		return c, errTiny
	}
	if c.program, err = product(); err != nil {
		return c, err
	}
	node := spiffeid.RequireFromString("spiffe://east.example.org/node/n1")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, err
	}
	folder, err := grownTrail(dir, node, key, others)
	if err != nil {
		return c, err
	}
	if err := addAbout(dir, node, key, about); err != nil {
		return c, err
	}
	if err := os.Mkdir(filepath.Join(dir, "decisions"), 0o700); err != nil { // of a node that recorded none
		return c, err
	}
	for l, err := range leavesOf(folder) {
		if err != nil {
			return c, err
		}
		if line, err := l.MarshalJSON(); err == nil && bytes.Contains(line, []byte(caseSubject)) {
			c.plain += len(line) + 1
		}
	}
	c.file, c.trust, c.entries = filepath.Join(dir, "case.zip"), filepath.Join(dir, "trust.json"), filepath.Join(dir, "entries")
	for _, args := range [][]string{
		{"trail", "verify", filepath.Dir(folder), "--id", node.String(), "--save-trust", c.trust},
		{"trail", "export", filepath.Dir(folder), "--subject", caseSubject, "--out", c.file},
	} {
		if out, err := exec.Command(c.program, args...).CombinedOutput(); err != nil {
			return c, fmt.Errorf("%v: %w: %s", args, err, out)
		}
	}
	return c, unpack(c.file, c.entries)
}

func addAbout(dir string, node spiffeid.ID, key *ecdsa.PrivateKey, about int) error {
	st, err := store.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		return err
	}
	defer st.Close()
	tr, err := trail.Open(trail.Config{Dir: filepath.Join(dir, "trail"), Node: node, Epoch: 1, Key: key, Store: st, Every: time.Hour})
	if err != nil {
		return err
	}
	for i := range about {
		if err := st.Update(func(tx *store.Tx) error {
			return trail.Append(tx, trail.DecisionDeny, map[string]any{"id": fmt.Sprintf("%032x", i), "rule": "caller-not-granted", "source": caseSubject, "target": "charts"})
		}); err != nil {
			return err
		}
	}
	return tr.Close()
}

func leavesOf(folder string) func(func(trail.Indexed, error) bool) {
	s, err := trail.OpenSnapshot(folder)
	if err != nil {
		return func(yield func(trail.Indexed, error) bool) { yield(trail.Indexed{}, err) }
	}
	return s.Leaves(context.Background(), 0)
}

func unpack(file, to string) error {
	z, err := zip.OpenReader(file)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		path := filepath.Join(to, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// caseVerify times whole programs: ours that checks a case file, and the one that people check sums with.
func caseVerify(dir string, s size) (sides, error) {
	sums, err := exec.LookPath("sha256sum")
	if err != nil {
		return sides{}, fmt.Errorf("%w: sha256sum", errAbsent)
	}
	c, err := newCaseFile(dir, s, 100_000, 20)
	if err != nil {
		return sides{}, err
	}
	timed := func(dir, program string, args ...string) func() (float64, error) {
		return func() (float64, error) {
			cmd := exec.Command(program, args...)
			cmd.Dir = dir
			start := time.Now()
			if out, err := cmd.CombinedOutput(); err != nil {
				return 0, fmt.Errorf("%w: %s", err, out)
			}
			return float64(time.Since(start).Microseconds()) / 1000, nil
		}
	}
	return sides{
		ours:      timed(dir, c.program, "trail", "verify", c.file, "--trust", c.trust),
		reference: timed(c.entries, sums, "--check", "--quiet", "SHA256SUMS"),
		limit:     timed(dir, c.program, "version"),
	}, nil
}

// caseBytes is the size of a case file.
func caseBytes(dir string, s size) (sides, error) {
	c, err := newCaseFile(dir, s, 100_000, 20)
	if err != nil {
		return sides{}, err
	}
	return sides{
		ours: func() (float64, error) {
			info, err := os.Stat(c.file)
			if err != nil {
				return 0, err
			}
			return float64(info.Size()) / 1000, nil
		},
		reference: func() (float64, error) { return float64(c.plain) / 1000, nil },
	}, nil
}
