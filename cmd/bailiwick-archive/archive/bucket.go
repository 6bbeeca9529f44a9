package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

var (
	// ErrUnlocked means that the bucket, or an object in it, is not protected: what is there could be changed. Make
	// a bucket with object lock; most servers allow that only when the bucket is made.
	ErrUnlocked = errors.New("not protected by object lock")

	// ErrForeign means that somebody else put another object where one of a trail belongs. Nothing of it was
	// believed. Find out who may write to the bucket, and give another prefix.
	ErrForeign = errors.New("another object is in its place")

	// ErrAccess means that the storage refused the credentials, or what they were used for. They need to read,
	// list, put and lock objects of the bucket, and to read its object lock configuration; never to delete, or
	// to bypass governance.
	ErrAccess = errors.New("the storage refuses access")

	// ErrEndpoint means an endpoint that is no https URL: without TLS anybody on the way reads the trail. Plain
	// http is taken for this machine only.
	ErrEndpoint = errors.New("not an endpoint that may be used")
)

// maxObject bounds what is read of one object, in bytes: segments and bundles stay below it.
const maxObject = 32 << 20

// Bucket is a bucket with object lock, below a prefix.
type Bucket struct {
	client       *s3.Client
	name, prefix string
}

// Format prints the bucket's name: the client below has the credentials.
func (b Bucket) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "bucket %s/%s", b.name, b.prefix) }

// OpenBucket looks whether the bucket protects what is put there. prefix, where not empty, ends with a slash.
// Errors wrap ErrUnlocked, ErrAccess or ErrEndpoint, or are the network's.
func OpenBucket(ctx context.Context, cfg aws.Config, endpoint, name, prefix string) (*Bucket, error) {
	if endpoint != "" {
		if err := checkEndpoint(endpoint); err != nil {
			return nil, err
		}
	}
	b := &Bucket{name: name, prefix: prefix, client: s3.NewFromConfig(cfg, func(o *s3.Options) {
		if endpoint != "" { // another server than Amazon's; few have a name for each bucket
			o.BaseEndpoint, o.UsePathStyle = &endpoint, true
		}
	})}
	lock, err := b.client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &name})
	if is(err, "ObjectLockConfigurationNotFoundError") {
		return nil, fmt.Errorf("%w: bucket %s", ErrUnlocked, name)
	}
	if err != nil {
		return nil, fmt.Errorf("object lock of bucket %s: %w", name, access(err))
	}
	if c := lock.ObjectLockConfiguration; c == nil || c.ObjectLockEnabled != types.ObjectLockEnabledEnabled {
		return nil, fmt.Errorf("%w: bucket %s", ErrUnlocked, name)
	}
	return b, nil
}

func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return fmt.Errorf("%w: want https://HOST[:PORT], without a user", ErrEndpoint)
	}
	ip := net.ParseIP(u.Hostname())
	if local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback(); u.Scheme == "https" || u.Scheme == "http" && local {
		return nil
	}
	return fmt.Errorf("%w: %s is not https", ErrEndpoint, u.Redacted())
}

// noLock is what a server says of an object without the kind of lock that was asked for.
const noLock = "NoSuchObjectLockConfiguration"

func is(err error, code string) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == code
}

// access names what an operator can do about a refusal.
func access(err error) error {
	var api smithy.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode() {
		case "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "NoSuchBucket":
			return fmt.Errorf("%w: %s: %s", ErrAccess, api.ErrorCode(), api.ErrorMessage())
		}
	}
	return err
}

// Lock is how an object is protected.
type Lock struct {
	Until time.Time // in mode COMPLIANCE; the zero time: not at all
	Hold  bool      // a legal hold
}

// version is one version of an object.
type version struct{ key, id string }

// list yields each key below a prefix, relative to the bucket's, with its oldest version, in the order of keys.
// Delete markers are passed over.
func (b *Bucket) list(ctx context.Context, under string) iter.Seq2[version, error] {
	return b.oldest(ctx, under, 1000)
}

func (b *Bucket) oldest(ctx context.Context, under string, page int32) iter.Seq2[version, error] {
	return func(yield func(version, error) bool) {
		prefix := b.prefix + under
		in := &s3.ListObjectVersionsInput{Bucket: &b.name, Prefix: &prefix, MaxKeys: &page}
		var last version
		for {
			out, err := b.client.ListObjectVersions(ctx, in)
			if err != nil {
				yield(version{}, fmt.Errorf("list %s: %w", under, access(err)))
				return
			}
			for _, v := range out.Versions { // of one key the newest comes first
				key := aws.ToString(v.Key)
				if len(key) < len(prefix) || key[:len(prefix)] != prefix {
					continue
				}
				if last.key != "" && last.key != key[len(b.prefix):] && !yield(last, nil) {
					return
				}
				last = version{key[len(b.prefix):], aws.ToString(v.VersionId)}
			}
			if !aws.ToBool(out.IsTruncated) {
				break
			}
			in.KeyMarker, in.VersionIdMarker = out.NextKeyMarker, out.NextVersionIdMarker
		}
		if last.key != "" {
			yield(last, nil)
		}
	}
}

// first is the oldest version of one key; its id is empty where there is none.
func (b *Bucket) first(ctx context.Context, key string) (version, error) {
	for v, err := range b.oldest(ctx, key, 10) {
		if err != nil || v.key != key { // a longer key that begins with this one
			return version{}, err
		}
		return v, nil
	}
	return version{}, nil
}

func (b *Bucket) get(ctx context.Context, v version) ([]byte, error) {
	key := b.prefix + v.key
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: &key, VersionId: &v.id})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", v.key, access(err))
	}
	defer out.Body.Close()
	data, err := io.ReadAll(io.LimitReader(out.Body, maxObject+1))
	if err == nil && len(data) > maxObject {
		err = fmt.Errorf("%w: more than %d bytes", ErrForeign, maxObject)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", v.key, err)
	}
	return data, nil
}

// lock is how a version is protected. It is asked for by itself: not every server says so when an object is read.
func (b *Bucket) lock(ctx context.Context, v version) (l Lock, err error) {
	key := b.prefix + v.key
	r, err := b.client.GetObjectRetention(ctx, &s3.GetObjectRetentionInput{Bucket: &b.name, Key: &key, VersionId: &v.id})
	if err != nil && !is(err, noLock) {
		return l, fmt.Errorf("retention of %s: %w", v.key, access(err))
	}
	if err == nil && r.Retention != nil && r.Retention.Mode == types.ObjectLockRetentionModeCompliance {
		l.Until = aws.ToTime(r.Retention.RetainUntilDate)
	}
	h, err := b.client.GetObjectLegalHold(ctx, &s3.GetObjectLegalHoldInput{Bucket: &b.name, Key: &key, VersionId: &v.id})
	if err != nil && !is(err, noLock) {
		return l, fmt.Errorf("legal hold of %s: %w", v.key, access(err))
	}
	l.Hold = err == nil && h.LegalHold != nil && h.LegalHold.Status == types.ObjectLockLegalHoldStatusOn
	return l, nil
}

// write puts a version of an object, locked.
func (b *Bucket) write(ctx context.Context, key string, data []byte, l Lock) (version, error) {
	sum, full := sha256.Sum256(data), b.prefix+key
	in := &s3.PutObjectInput{Bucket: &b.name, Key: &full, Body: bytes.NewReader(data), ObjectLockMode: types.ObjectLockModeCompliance, ObjectLockRetainUntilDate: &l.Until,
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(sum[:]))} // what arrives changed is refused
	if l.Hold {
		in.ObjectLockLegalHoldStatus = types.ObjectLockLegalHoldStatusOn
	}
	out, err := b.client.PutObject(ctx, in)
	if err != nil {
		return version{}, fmt.Errorf("put %s: %w", key, access(err))
	}
	if aws.ToString(out.VersionId) == "" {
		return version{}, fmt.Errorf("%w: %s has no version: is versioning off?", ErrUnlocked, key)
	}
	return version{key, *out.VersionId}, nil
}

// put makes an object the oldest of its key, where there is none yet, and reads it back. Errors wrap
// ErrForeign or ErrUnlocked.
func (b *Bucket) put(ctx context.Context, key string, data []byte, want Lock) error {
	v, err := b.first(ctx, key)
	if err == nil && v.id == "" {
		v, err = b.write(ctx, key, data, want)
	}
	if err == nil {
		err = b.same(ctx, v, data)
	}
	if err != nil {
		return err
	}
	l, err := b.lock(ctx, v)
	if err != nil {
		return err
	}
	short, loose := l.Until.Before(want.Until), want.Hold && !l.Hold
	if short { // of an earlier try
		err = b.extend(ctx, v, want.Until)
	}
	if loose {
		err = errors.Join(err, b.hold(ctx, v, true))
	}
	if short || loose {
		return errors.Join(err, b.locked(ctx, v, want))
	}
	return nil
}

// replace puts a new version over whatever is there.
func (b *Bucket) replace(ctx context.Context, key string, data []byte, want Lock) error {
	v, err := b.write(ctx, key, data, want)
	if err != nil {
		return err
	}
	return errors.Join(b.same(ctx, v, data), b.locked(ctx, v, want))
}

// same reads a version back.
func (b *Bucket) same(ctx context.Context, v version, want []byte) error {
	got, err := b.get(ctx, v)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%w: %s", ErrForeign, b.prefix+v.key)
	}
	return err
}

// locked reports a version that is protected less than it was to be.
func (b *Bucket) locked(ctx context.Context, v version, want Lock) error {
	l, err := b.lock(ctx, v)
	if err == nil && (l.Until.Before(want.Until) || want.Hold && !l.Hold) {
		err = fmt.Errorf("%w: %s is locked until %s, hold %t", ErrUnlocked, v.key, l.Until.Format(time.DateOnly), l.Hold)
	}
	return err
}

func (b *Bucket) extend(ctx context.Context, v version, until time.Time) error {
	key := b.prefix + v.key
	_, err := b.client.PutObjectRetention(ctx, &s3.PutObjectRetentionInput{Bucket: &b.name, Key: &key, VersionId: &v.id,
		Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionModeCompliance, RetainUntilDate: &until}})
	if err != nil {
		return fmt.Errorf("lock %s: %w", v.key, access(err))
	}
	return nil
}

// hold sets or takes off the legal hold of a version.
func (b *Bucket) hold(ctx context.Context, v version, on bool) error {
	key, status := b.prefix+v.key, types.ObjectLockLegalHoldStatusOff
	if on {
		status = types.ObjectLockLegalHoldStatusOn
	}
	_, err := b.client.PutObjectLegalHold(ctx, &s3.PutObjectLegalHoldInput{Bucket: &b.name, Key: &key, VersionId: &v.id, LegalHold: &types.ObjectLockLegalHold{Status: status}})
	if err != nil {
		return fmt.Errorf("legal hold of %s: %w", v.key, access(err))
	}
	return nil
}
