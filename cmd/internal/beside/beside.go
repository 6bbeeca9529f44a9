// Package beside is about what stands beside a node's trails and says what their heads and leaves
// rest on, so that whoever has the folder <state>/trail, or a copy of it, needs nothing else but the
// global keys.
//
//	rosters/<SHA-256>      who the witnesses of a head are (package witnessing keeps them)
//	witnesses/<SHA-256>    whose a witness key is, by the key (package witnessing)
//	trust/<SHA-256>        signed trust records: every one that the node has held, its own region's
//	                       and others' (KeepTrust)
//
// Files come and stay. Each is what its name says, or is as good as absent; what it is worth
// depends on who signed it, not on where it lies.
package beside

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/attest/durable"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
)

// TrustDir is the folder of trust records in a folder of trails.
const TrustDir = "trust"

// ErrName means that a file is not what its name says: it was damaged, or exchanged.
var ErrName = errors.New("a file beside a trail is not what its name says")

// Checks are the folders, each with the check that a file of it is what its name says. Errors wrap
// ErrName, witness.ErrRoster, witnessing.ErrRecord or trust.ErrMalformed.
func Checks() map[string]func(name string, content []byte) error {
	return map[string]func(string, []byte) error{
		witnessing.RostersDir: func(name string, b []byte) error {
			_, err := witness.ParseRoster(b)
			return errors.Join(err, hashed(name, b))
		},
		witnessing.KeysDir: func(name string, b []byte) error {
			v, err := witnessing.ReadRecord(b)
			if err != nil {
				return err
			}
			return hashed(name, []byte(v.Witness))
		},
		TrustDir: func(name string, b []byte) error {
			_, _, err := trust.Read(b)
			return errors.Join(err, hashed(name, b))
		},
	}
}

func hashed(name string, b []byte) error {
	if is := fmt.Sprintf("%x", sha256.Sum256(b)); is != name {
		return fmt.Errorf("%w: %.80q is of %s", ErrName, name, is)
	}
	return nil
}

// Trust are the trust records beside the trails in a folder. What is damaged is left out. Errors are
// the file system's.
func Trust(dir string) (out [][]byte, err error) {
	entries, err := os.ReadDir(filepath.Join(dir, TrustDir))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return nil, err
	}
	for _, e := range entries {
		b, err := bounded.ReadFile(filepath.Join(dir, TrustDir, e.Name()), trust.MaxSize)
		if err == nil && Checks()[TrustDir](e.Name(), b) == nil {
			out = append(out, b)
		}
	}
	return out, nil
}

// KeepTrust keeps the records of a set beside the trails in a folder, now and whenever others come,
// until ctx ends. Errors are the disk's.
func KeepTrust(ctx context.Context, dir string, set *trust.Set) error {
	for {
		changed := set.Changed()
		for _, raw := range set.Export() {
			if err := keep(filepath.Join(dir, TrustDir), raw); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func keep(dir string, raw []byte) error {
	path := filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256(raw)))
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return durable.Replace(path, raw, 0o644)
}
