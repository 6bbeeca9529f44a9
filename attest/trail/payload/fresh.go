package payload

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bailiwick-mesh/bailiwick/attest/durable"
)

// place is what a key is for.
type place struct{ day, scope string }

// freshKey is a key that is not on the disk yet. done and err belong to who holds Keys.files.
type freshKey struct {
	key  *key
	done bool
	err  error
}

// keyOf returns the key of a scope and day. A first one is on the disk when it returns, together with
// all that others waited for meanwhile: many first callers wait for one sync, not for one each.
func (k *Keys) keyOf(s Scope, day string) (*key, error) {
	k.mu.Lock()
	if d := k.days[day]; d != nil && d.scope[s.String()] != nil {
		defer k.mu.Unlock()
		return d.scope[s.String()].clone(), nil
	}
	at := place{day, s.String()}
	one := k.fresh[at]
	if one == nil {
		one = &freshKey{key: &key{ID: make([]byte, idSize), Secret: make([]byte, keySize), Subject: s.Subject, Kind: s.Kind, Classes: s.Classes}}
		rand.Read(one.key.ID)
		rand.Read(one.key.Secret)
		k.fresh[at] = one
	}
	mine := one.key.clone()
	k.mu.Unlock()

	k.files.Lock()
	defer k.files.Unlock()
	if !one.done {
		k.commit()
	}
	return mine, one.err
}

// commit puts all fresh keys on the disk, with one write and one sync for each day. The caller holds files.
func (k *Keys) commit() {
	k.mu.Lock()
	days := map[string][]place{}
	for at := range k.fresh {
		days[at.day] = append(days[at.day], at)
	}
	k.mu.Unlock()
	for day, places := range days {
		list := make([]*key, len(places))
		k.mu.Lock()
		for i, at := range places {
			list[i] = k.fresh[at].key
			list[i].Serial = k.serial + 1 + uint64(i)
		}
		k.mu.Unlock()
		err := k.append(day, list)
		k.mu.Lock()
		if err == nil && k.days[day] == nil {
			k.days[day] = newDay(nil)
		}
		for i, at := range places {
			one := k.fresh[at]
			one.done, one.err = true, err
			delete(k.fresh, at)
			if err == nil {
				k.serial = list[i].Serial
				k.days[day].add(list[i])
			}
		}
		k.mu.Unlock()
	}
}

// append adds frames to a day's file, all or none: what a failure leaves of them is cut off.
func (k *Keys) append(day string, list []*key) error {
	if err := k.step("append"); err != nil {
		return err
	}
	var b []byte
	for _, one := range list {
		frame, err := one.frame()
		if err != nil {
			return err
		}
		b = append(b, frame...)
	}
	path := filepath.Join(k.dir, day)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size()+int64(len(b)) > maxDay {
		return fmt.Errorf("%w: %s would have more than %d bytes", ErrKeys, path, maxDay)
	}
	_, err = f.WriteAt(b, info.Size())
	if err == nil {
		err = f.Sync()
	}
	if err == nil && info.Size() == 0 {
		err = durable.SyncDir(k.dir)
	}
	if err != nil {
		return errors.Join(err, f.Truncate(info.Size()))
	}
	return nil
}
