package app

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
)

// maxBootLog is the largest boot log a node offers as evidence, in bytes.
const maxBootLog = 1 << 20

// ErrNoTPM means the configuration requires a TPM and it does not answer.
var ErrNoTPM = errors.New("a TPM is required and none answers: check tpm.device, or set tpm.mode")

// ErrBootLog means the firmware's boot log cannot be read or is too large.
var ErrBootLog = errors.New("the boot log cannot be used: check tpm.boot_log")

// machine is what this node is made of, as far as it can prove it: its TPM, or
// without one, key files that only its user protects.
type machine struct {
	device *tpm.Device // nil without a TPM
	keys   *tpm.Keys   // nil without a TPM
	node   crypto.Signer
	trail  crypto.Signer

	inMemory bool              // the node's key is, also where there is a TPM
	feed     *ecdsa.PrivateKey // signs records; certified by the issuer for one epoch at a time

	// restored: records may have been sent that this disk does not know. It ends
	// with the first epoch that no other copy of the disk can have written in.
	restored atomic.Bool
}

// openMachine opens the TPM as the mode says, makes or reloads the keys, counts
// this start, and judges whether the disk is the one that was used last.
func openMachine(c config.Config, st *store.Store, log *slog.Logger) (*machine, error) {
	dir := filepath.Join(string(c.State), "keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	m := &machine{inMemory: c.TPM.NodeKey == config.InMemory}
	var err error
	if m.feed, err = keyfile.Open(filepath.Join(dir, "feed.pem")); err != nil {
		return nil, err
	}
	if c.TPM.Mode != "off" {
		err := m.openTPM(c.TPM.Device, dir, st)
		if err == nil {
			return m, nil
		}
		if !errors.Is(err, tpm.ErrDevice) {
			return nil, err // there is a TPM: what is wrong with it must not make an unattested node of this one
		}
		if c.TPM.Mode == "required" || c.Enrol.TokenFile == "" {
			return nil, fmt.Errorf("%w: %w", ErrNoTPM, err)
		}
		log.Warn("no TPM; this node joins by token and is shown as unattested", "err", err)
	}
	node, err := keyfile.Open(filepath.Join(dir, "node.pem"))
	if err != nil {
		return nil, err
	}
	trail, err := keyfile.Open(filepath.Join(dir, "trail.pem"))
	if err != nil {
		return nil, err
	}
	m.node, m.trail = node, trail
	return m, nil
}

func (m *machine) attested() bool { return m.device != nil }

func (m *machine) openTPM(path, dir string, st *store.Store) (err error) {
	device, err := tpm.Open(path)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, device.Close())
		}
	}()
	keys, err := tpm.OpenKeys(device, dir)
	if err != nil {
		return err
	}
	disk, err := countStart(device, st)
	if err != nil {
		return err
	}
	m.device, m.keys, m.node, m.trail = device, keys, keys.Node(), keys.Trail()
	if m.inMemory {
		if m.node, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
	}
	m.restored.Store(disk == epoch.Restored)
	return nil
}

func (m *machine) close() error {
	if m.device == nil {
		return nil
	}
	return m.device.Close()
}

const machineBucket = "app/machine"

var (
	startsKey   = []byte("starts")   // u64: the TPM's counter after this start
	restoredKey = []byte("restored") // present: records may have been sent that this disk does not know
)

// countStart compares the TPM's counter of starts with what this disk remembers,
// and counts this start, in the order epoch.Continuity asks for. A restored disk
// stays one until its node has begun a new epoch.
func countStart(device *tpm.Device, st *store.Store) (epoch.Disk, error) {
	counters, err := device.Counters()
	if err != nil {
		return epoch.Restored, err
	}
	disk := epoch.Restored
	err = st.Update(func(tx *store.Tx) error {
		var remembered uint64
		if b := tx.Get(machineBucket, startsKey); len(b) == 8 {
			remembered = binary.BigEndian.Uint64(b)
		}
		disk = epoch.Continuity(counters.Starts, remembered)
		if disk == epoch.Restored {
			if err := tx.Put(machineBucket, restoredKey, nil); err != nil {
				return err
			}
		} else if tx.Get(machineBucket, restoredKey) != nil {
			disk = epoch.Restored
		}
		return tx.Put(machineBucket, startsKey, binary.BigEndian.AppendUint64(nil, counters.Starts+1))
	})
	if err != nil {
		return epoch.Restored, err
	}
	if _, err := device.BumpStarts(); err != nil {
		return epoch.Restored, err
	}
	return disk, nil
}

// bootLog reads the firmware's measured-boot log.
func bootLog(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBootLog, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBootLog+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBootLog, err)
	}
	if len(b) > maxBootLog {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrBootLog, path, maxBootLog)
	}
	return b, nil
}
