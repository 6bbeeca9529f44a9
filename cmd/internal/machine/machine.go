package machine

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
	"sync"
	"sync/atomic"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
)

// maxBootLog is the largest boot log a node offers as evidence, in bytes.
const maxBootLog = 1 << 20

// ErrNoTPM means the configuration requires a TPM and it does not answer.
var ErrNoTPM = errors.New("a TPM is required and none answers: check tpm.device, or set tpm.mode")

// ErrBootLog means the firmware's boot log cannot be read or is too large.
var ErrBootLog = errors.New("the boot log cannot be used: check tpm.boot_log")

// Machine is one that is open. Its methods may be called concurrently, but for Own.
type Machine struct {
	store   *store.Store
	log     *slog.Logger
	dir     string // of key files
	bootLog string // path

	device *tpm.Device // nil without a TPM
	keys   *tpm.Keys   // nil without a TPM
	node   crypto.Signer
	trail  crypto.Signer
	feed   *ecdsa.PrivateKey

	inMemory bool // the node's key is, also where there is a TPM
	restored atomic.Bool
	renewed  atomic.Pointer[string] // Renewed's words; nil: none
}

// Open opens the TPM as the mode says, makes or reloads the keys, counts this start, and
// judges whether the disk is the one that was used last. What it has to say of another TPM
// is in the trail, through st, before it returns.
func Open(c config.Config, st *store.Store, log *slog.Logger) (*Machine, error) {
	m := &Machine{store: st, log: log, dir: keysDir(c), bootLog: string(c.TPM.BootLog), inMemory: c.TPM.NodeKey == config.InMemory}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, err
	}
	if err := m.remember(); err != nil {
		return nil, err
	}
	if c.TPM.Mode != "off" {
		err := m.openTPM(c)
		if err == nil {
			if m.feed, err = keyfile.Open(filepath.Join(m.dir, feedKeyFile)); err != nil {
				return nil, errors.Join(err, m.Close())
			}
			return m, nil
		}
		if !errors.Is(err, tpm.ErrDevice) {
			return nil, err // there is a TPM: what is wrong with it must not make an unattested node of this one
		}
		if c.TPM.Mode == "required" || !c.Enrol.WithoutTPM() {
			return nil, fmt.Errorf("%w: %w", ErrNoTPM, err)
		}
		log.Warn("no TPM; this node joins without one and is shown as unattested", "err", err)
	}
	return m, m.openFiles()
}

// keysDir is where the files of a machine's keys are.
func keysDir(c config.Config) string { return filepath.Join(string(c.State), "keys") }

// keyFiles are those of a machine without a TPM: its node key, its trail's, its feed's.
var keyFiles = [...]string{"node.pem", "trail.pem", feedKeyFile}

// MakeKeys makes the key files of a machine without a TPM, where they are missing, ahead of
// Open, which waits for the disk less then. What goes wrong, Open says.
func MakeKeys(c config.Config) {
	m := &Machine{dir: keysDir(c)}
	if err := os.MkdirAll(m.dir, 0o700); err == nil {
		_ = m.openFiles()
	}
}

// openFiles takes the keys of a machine without a TPM from their files, all at once:
// new ones wait for the disk, and share that.
func (m *Machine) openFiles() error {
	var keys [len(keyFiles)]*ecdsa.PrivateKey
	var errs [len(keyFiles)]error
	var all sync.WaitGroup
	for i, name := range keyFiles {
		all.Go(func() { keys[i], errs[i] = keyfile.Open(filepath.Join(m.dir, name)) })
	}
	all.Wait()
	m.node, m.trail, m.feed = keys[0], keys[1], keys[2]
	return errors.Join(errs[:]...)
}

// Attested reports whether there is a TPM that proves what this machine is.
func (m *Machine) Attested() bool { return m.device != nil }

// Device is the TPM; nil without one.
func (m *Machine) Device() *tpm.Device { return m.device }

// Keys are those in the TPM; nil without one.
func (m *Machine) Keys() *tpm.Keys { return m.keys }

// Trail is the key that signs this node's trail.
func (m *Machine) Trail() crypto.Signer { return m.trail }

// Feed is the key that signs this node's records, certified by the issuer for one epoch at
// a time.
func (m *Machine) Feed() *ecdsa.PrivateKey { return m.feed }

// Counters are those of the TPM; zero without one.
func (m *Machine) Counters() (tpm.Counters, error) {
	if !m.Attested() {
		return tpm.Counters{}, nil
	}
	return m.device.Counters()
}

// RootDevice is the TPM for a signing root. The error is ErrNoTPM.
func (m *Machine) RootDevice() (issuer.Device, error) {
	if !m.Attested() {
		return nil, ErrNoTPM
	}
	return m.device, nil
}

func (m *Machine) openTPM(c config.Config) (err error) {
	device, err := tpm.Open(c.TPM.Device)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, device.Close())
		}
	}()
	keys, err := tpm.OpenKeys(device, m.dir)
	if errors.Is(err, tpm.ErrOtherTPM) && c.TPM.Mode == "auto" {
		keys, err = m.startOver(device)
	}
	if err != nil {
		return err
	}
	if err := m.sameTPM(keys.EKHash()); err != nil {
		return err
	}
	disk, err := countStart(device, m.store)
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

// Close lets go of the TPM.
func (m *Machine) Close() error {
	if m.device == nil {
		return nil
	}
	return m.device.Close()
}

const bucket = "app/machine"

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
		if b := tx.Get(bucket, startsKey); len(b) == 8 {
			remembered = binary.BigEndian.Uint64(b)
		}
		disk = epoch.Continuity(counters.Starts, remembered)
		if disk == epoch.Restored {
			if err := tx.Put(bucket, restoredKey, nil); err != nil {
				return err
			}
		} else if tx.Get(bucket, restoredKey) != nil {
			disk = epoch.Restored
		}
		return tx.Put(bucket, startsKey, binary.BigEndian.AppendUint64(nil, counters.Starts+1))
	})
	if err != nil {
		return epoch.Restored, err
	}
	if _, err := device.BumpStarts(); err != nil {
		return epoch.Restored, err
	}
	return disk, nil
}

// Restored reports whether records may have been sent that this disk does not know.
func (m *Machine) Restored() bool { return m.restored.Load() }

// EndRestored ends Restored, in one transaction with what tells of it: an epoch begins that
// no other copy of the disk can have written in.
func (m *Machine) EndRestored(tell func(*store.Tx) error) error {
	err := m.store.Update(func(tx *store.Tx) error { return errors.Join(tx.Delete(bucket, restoredKey), tell(tx)) })
	if err == nil {
		m.restored.Store(false)
	}
	return err
}

// BootLog reads the firmware's measured-boot log. The error is ErrBootLog.
func (m *Machine) BootLog() ([]byte, error) {
	f, err := os.Open(m.bootLog)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBootLog, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBootLog+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBootLog, err)
	}
	if len(b) > maxBootLog {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrBootLog, m.bootLog, maxBootLog)
	}
	return b, nil
}
