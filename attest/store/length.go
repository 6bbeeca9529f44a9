package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// bbolt's file: two meta pages first, each a 16-byte page header and then
// magic u32, version u32, page size u32, flags u32, root bucket u64 u64,
// freelist page u64, high water mark u64 (pages in use), all little-endian.
const (
	metaHeader    = 16
	metaMagic     = 0xED0CDAED
	metaSize      = metaHeader + 48
	metaPageSize  = metaHeader + 8
	metaHighWater = metaHeader + 40
)

// checkLength refuses a file that is shorter than its own meta pages say. The
// database is mapped into memory: reading past the end of a truncated file
// would end the process with SIGBUS, before any check of bbolt's own.
func checkLength(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return system(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	pageSize := int64(os.Getpagesize())
	for page := range int64(2) {
		var meta [metaSize]byte
		if _, err := f.ReadAt(meta[:], page*pageSize); errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: %d bytes end inside its head", ErrCorrupt, info.Size())
		} else if err != nil {
			return err
		}
		if binary.LittleEndian.Uint32(meta[metaHeader:]) != metaMagic {
			continue // bbolt itself judges a damaged meta page: one of two may be torn
		}
		pageSize = int64(binary.LittleEndian.Uint32(meta[metaPageSize:]))
		pages := binary.LittleEndian.Uint64(meta[metaHighWater:])
		if pageSize <= 0 || pages > uint64(info.Size()/pageSize) {
			return fmt.Errorf("%w: %d bytes, its head says %d pages of %d", ErrCorrupt, info.Size(), pages, pageSize)
		}
	}
	return nil
}
