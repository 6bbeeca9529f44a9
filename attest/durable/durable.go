// Package durable writes files that are whole or not there, also after a crash or a power cut.
//
// What always holds: when Replace or Create returns nil, the bytes and the name are on the disk; when
// they fail, what was at the path is still there, and nothing else is left beside it. A process that
// is killed in between may leave a file named like the path with a dot and digits behind it.
//
// Package durable locks nothing: of two writers the last one wins with Replace, the first with Create.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace puts a file of these bytes and this mode at path, in place of what may be there. The
// folder must exist. Errors are the file system's.
func Replace(path string, b []byte, mode fs.FileMode) error { return write(path, b, mode, os.Rename) }

// Create is Replace where nothing may be at path yet: then the error is fs.ErrExist, whoever else
// made it meanwhile.
func Create(path string, b []byte, mode fs.FileMode) error { return write(path, b, mode, os.Link) }

func write(path string, b []byte, mode fs.FileMode, place func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it is at path by then, or is wanted nowhere
	_, err = f.Write(b)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := place(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir waits until the names in a folder are on the disk: what was made, renamed or removed there.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Missing takes the error of removing or looking for a file that need not be there: that it is not
// is none.
func Missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
