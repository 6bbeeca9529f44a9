package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// trailTree prepares the check of a whole trail: every leaf parsed, every hash derived again, tiles and head compared.
func trailTree(dir string, leaves int) (sides, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return sides{}, err
	}
	node := spiffeid.RequireFromString("spiffe://east.example.org/node/n1")
	folder, err := grownTrail(dir, node, key, leaves)
	if err != nil {
		return sides{}, err
	}
	_, raw, err := trail.ReadRaw(folder, 0, 1<<40)
	if err != nil {
		return sides{}, err
	}
	hand, err := handTree(raw)
	if err != nil {
		return sides{}, err
	}
	core := func(do func() error) func() (float64, error) {
		return func() (float64, error) {
			return oneCore(func() (float64, error) { return perCPUSecond(len(raw), do) })
		}
	}
	return sides{
		ours: core(func() error {
			r, err := trail.Verify(context.Background(), folder, trail.Options{Node: node})
			if err == nil && (!r.Good() || r.Size != uint64(len(raw)) || r.Root != fmt.Sprintf("%x", hand[:])) {
				err = fmt.Errorf("%v, %v, %d leaves", r.Integrity, r.Completeness, r.Size)
			}
			return err
		}),
		reference: core(func() error {
			again, err := handTree(raw)
			if err == nil && again != hand {
				err = fmt.Errorf("another root")
			}
			return err
		}),
	}, nil
}

// grownTrail makes a trail with so many leaves and two of its own, and returns its folder.
func grownTrail(dir string, node spiffeid.ID, key *ecdsa.PrivateKey, leaves int) (string, error) {
	st, err := store.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		return "", err
	}
	defer st.Close()
	tr, err := trail.Open(trail.Config{Dir: filepath.Join(dir, "trail"), Node: node, Epoch: 1, Key: key, Store: st})
	if err != nil {
		return "", err
	}
	for done := 0; done < leaves; {
		if err := st.Update(func(tx *store.Tx) error {
			for end := min(leaves, done+1000); done < end; done++ {
				if err := trail.Append(tx, trail.DecisionDeny, leafBody); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return "", err
		}
		if done%20_000 == 0 { // fewer than trail.MaxWaiting
			if err := tr.Flush(context.Background()); err != nil {
				return "", err
			}
		}
	}
	return tr.Dir(), tr.Close()
}

// hashes are those of a tree by hand.
type hashes []tlog.Hash

// ReadHashes is tlog.HashReader.
func (h hashes) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, n := range at {
		out[i] = h[n]
	}
	return out, nil
}

// handTree is the root over leaves that are in memory already.
func handTree(leaves [][]byte) (tlog.Hash, error) {
	var all hashes
	for i, b := range leaves {
		more, err := tlog.StoredHashes(int64(i), b, all)
		if err != nil {
			return tlog.Hash{}, err
		}
		all = append(all, more...)
	}
	return tlog.TreeHash(int64(len(leaves)), all)
}

// trailSigned prepares the check of signed statements: parsed strictly, and the signature verified.
func trailSigned(count int) (sides, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return sides{}, err
	}
	kind, payload := statement.Type{Name: "bench", Version: 1}, make([]byte, 343)
	signed := make([][]byte, 64)
	for i := range signed {
		payload[0] = byte(i)
		body, err := statement.Marshal(payload)
		if err != nil {
			return sides{}, err
		}
		if signed[i], err = statement.Sign(key, kind, "east.example.org", body); err != nil {
			return sides{}, err
		}
	}
	digest := sha256.Sum256(payload)
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return sides{}, err
	}
	core := func(do func() error) func() (float64, error) {
		return func() (float64, error) {
			return oneCore(func() (float64, error) { return perCPUSecond(count, do) })
		}
	}
	return sides{
		ours: core(func() error {
			for i := range count {
				env, err := statement.Parse(signed[i%len(signed)])
				if err != nil {
					return err
				}
				if err := env.Verify(&key.PublicKey, kind, "east.example.org"); err != nil {
					return err
				}
			}
			return nil
		}),
		reference: core(func() error { return verifyAll(&key.PublicKey, digest, sig, count) }),
	}, nil
}
