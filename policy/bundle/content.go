package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// MaxContent is the largest content, in bytes: what package policy accepts, and some for paths.
const MaxContent = policy.MaxSource + policy.MaxData + 64<<10

var (
	// ErrContent means that bytes are no content, or not in its one spelling, or a folder holds
	// what cannot be part of a policy. The message names the file.
	ErrContent = errors.New("not the content of a policy")
	// ErrTooLarge means that a policy exceeds the limits of package policy.
	ErrTooLarge = errors.New("policy content is too large")
)

type wireContent struct {
	Modules map[string]string `cbor:"1,keyasint"`
	Data    []byte            `cbor:"2,keyasint"`
}

// dataFile is where a folder keeps the data of a level.
const dataFile = "data.json"

// Pack reads the folder of one level: *.rego in it and below it, and one data.json at its top.
// Documentation (*.md), LICENSE files and names that begin with a dot are left out; anything else
// is refused, so that nothing an author wrote is lost without a word.
func Pack(dir string) ([]byte, error) {
	root, err := os.OpenRoot(dir) // links that lead out of the folder are not followed
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return PackFS(root.FS())
}

// PackFS is Pack for a file system.
func PackFS(fsys fs.FS) ([]byte, error) {
	modules, data := map[string]string{}, map[string]any(nil)
	left := int64(MaxContent)
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		base := path.Base(p)
		switch {
		case err != nil:
			return err
		case p == ".":
			return nil
		case strings.HasPrefix(base, "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir(), path.Ext(p) == ".md", base == "LICENSE":
			return nil
		case p != dataFile && base == dataFile:
			return fmt.Errorf("%w: %s: data lives in one %s at the top; move its keys there", ErrContent, p, dataFile)
		case p != dataFile && path.Ext(p) != ".rego":
			return fmt.Errorf("%w: %s is neither *.rego nor %s", ErrContent, p, dataFile)
		}
		f, err := fsys.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, left+1))
		if err != nil {
			return err
		}
		if left -= int64(len(b)); left < 0 {
			return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxContent)
		}
		if p != dataFile {
			modules[p] = string(b)
			return nil
		}
		data, err = parseData(b)
		return err
	})
	if err != nil {
		return nil, err
	}
	return Encode(modules, data)
}

// Encode returns the content of modules, by path, and data.
func Encode(modules map[string]string, data map[string]any) ([]byte, error) {
	source := 0
	for p, src := range modules {
		source += len(src)
		switch {
		case len(p) > 256 || path.Clean(p) != p || path.IsAbs(p) || strings.HasPrefix(p, "..") || path.Ext(p) != ".rego" || !utf8.ValidString(p):
			return nil, fmt.Errorf("%w: path %q, want a clean relative path ending in .rego", ErrContent, p)
		case !utf8.ValidString(src):
			return nil, fmt.Errorf("%w: %s is not UTF-8", ErrContent, p)
		}
	}
	if data == nil {
		data = map[string]any{}
	}
	js, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("%w: data: %v", ErrContent, err)
	}
	switch {
	case len(modules) > policy.MaxModules:
		return nil, fmt.Errorf("%w: %d modules, at most %d", ErrTooLarge, len(modules), policy.MaxModules)
	case source > policy.MaxSource:
		return nil, fmt.Errorf("%w: %d bytes of Rego, at most %d", ErrTooLarge, source, policy.MaxSource)
	case len(js) > policy.MaxData:
		return nil, fmt.Errorf("%w: %d bytes of data, at most %d", ErrTooLarge, len(js), policy.MaxData)
	}
	if modules == nil {
		modules = map[string]string{}
	}
	return statement.Marshal(wireContent{modules, js})
}

// Unpack returns what Encode was given. Errors wrap ErrContent or ErrTooLarge.
func Unpack(b []byte) (modules map[string]string, data map[string]any, err error) {
	if len(b) > MaxContent {
		return nil, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(b), MaxContent)
	}
	var w wireContent
	if err := statement.Unmarshal(b, &w); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrContent, err)
	}
	if data, err = parseData(w.Data); err != nil {
		return nil, nil, err
	}
	again, err := Encode(w.Modules, data)
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, nil, fmt.Errorf("%w: not in its one spelling", ErrContent)
	}
	return w.Modules, data, nil
}

func parseData(b []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrContent, dataFile, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: %s: bytes after the end", ErrContent, dataFile)
	}
	if m == nil {
		return nil, fmt.Errorf("%w: %s must be an object", ErrContent, dataFile)
	}
	return m, nil
}
