package machine

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

// A TPM that was cleared has the same endorsement key and none of the node's own; one
// that was replaced has another endorsement key too. Both take with them what told
// this disk from a copy of it, so that the feed goes on under a new key: the authority
// gives that an epoch which nobody had before. State and trail stay as they are.
//
// Everything here may be interrupted at any point: the next start goes on with it, and
// at worst says twice what happened.

const feedKeyFile = "feed.pem"

var (
	ekKey      = []byte("ek")      // SHA-256 of the EK of the TPM this node used last
	renewedKey = []byte("renewed") // the words of Renewed
)

// remember brings back what an earlier start has said and not yet mended.
func (m *Machine) remember() error {
	return m.store.View(func(tx *store.Tx) error {
		if b := tx.Get(bucket, renewedKey); b != nil {
			words := string(b)
			m.renewed.Store(&words)
		}
		return nil
	})
}

// startOver makes new keys in a TPM that does not know those in files, which are set
// aside.
func (m *Machine) startOver(device *tpm.Device) (*tpm.Keys, error) {
	ek, err := device.EndorsementKey()
	if err != nil {
		return nil, err
	}
	if err := m.renew(ek.Hash); err != nil {
		return nil, err
	}
	if err := m.putEK(ek.Hash); err != nil {
		return nil, err
	}
	return tpm.OpenKeys(device, m.dir)
}

// sameTPM notices a TPM that is not the one used last, although its keys are: somebody
// removed those of the other. It remembers this one.
func (m *Machine) sameTPM(ek [32]byte) error {
	before, err := m.ekBefore()
	switch {
	case err != nil || bytes.Equal(before, ek[:]):
		return err
	case before != nil:
		if err := m.renew(ek, feedKeyFile); err != nil {
			return err
		}
	}
	return m.putEK(ek)
}

func (m *Machine) putEK(ek [32]byte) error {
	return m.store.Update(func(tx *store.Tx) error { return tx.Put(bucket, ekKey, ek[:]) })
}

func (m *Machine) ekBefore() (ek []byte, err error) {
	err = m.store.View(func(tx *store.Tx) error {
		ek = bytes.Clone(tx.Get(bucket, ekKey))
		return nil
	})
	return ek, err
}

// renew says what happened, in trail, status and log, and sets key files aside: the
// given ones, or all.
func (m *Machine) renew(ek [32]byte, files ...string) error {
	before, err := m.ekBefore()
	if err != nil {
		return err
	}
	if len(files) == 0 {
		files = []string{feedKeyFile, tpm.NodeKeyFile, tpm.TrailKeyFile}
	}
	what := "the TPM was cleared"
	if !bytes.Equal(before, ek[:]) {
		what = "the TPM is another one"
		if before == nil {
			what = "the TPM was cleared or is another one"
		}
	}
	now := time.Now().UTC()
	aside := filepath.Join(m.dir, "other-tpm-"+now.Format("20060102T150405.000"))
	words := fmt.Sprintf("%s: this node made new keys at %s and enrols again; those of before are in %s", what, now.Format(time.RFC3339), aside)
	err = m.store.Update(func(tx *store.Tx) error {
		if err := tx.Put(bucket, renewedKey, []byte(words)); err != nil {
			return err
		}
		return trail.Append(tx, trail.IdentityMachine, map[string]any{
			"why": what, "ek": hex.EncodeToString(ek[:]), "ek_before": hex.EncodeToString(before), "kept_at": aside,
		})
	})
	if err != nil {
		return err
	}
	m.renewed.Store(&words)
	m.log.Error(words, "ek", hex.EncodeToString(ek[:]), "ek_before", hex.EncodeToString(before))
	if err := os.Mkdir(aside, 0o700); err != nil {
		return err
	}
	for _, name := range files {
		if err := os.Rename(filepath.Join(m.dir, name), filepath.Join(aside, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Renewed says in words that the TPM was cleared or replaced and the keys are new, until an
// epoch has begun with them; empty: they are not.
func (m *Machine) Renewed() string {
	if words := m.renewed.Load(); words != nil {
		return *words
	}
	return ""
}

// Settle ends Renewed: an epoch has begun with the new keys.
func (m *Machine) Settle() error {
	if m.renewed.Load() == nil {
		return nil
	}
	err := m.store.Update(func(tx *store.Tx) error { return tx.Delete(bucket, renewedKey) })
	if err == nil {
		m.renewed.Store(nil)
	}
	return err
}
