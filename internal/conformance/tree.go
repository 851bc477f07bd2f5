// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Entry is one inode of a file system.
type Entry struct {
	Type     string // file, dir, link, fifo, char, block
	Mode     int64  // permission bits with setuid, setgid and sticky
	UID, GID int
	Target   string // of a symbolic link
	Content  string // a short text quoted, otherwise the size and the start of the SHA-256
	Dev      string // major,minor
	Mtime    string // "" if it is the time of the build
	Xattrs   map[string]string
}

// String shows the entry in one line.
func (e *Entry) String() string {
	var b strings.Builder
	b.WriteString(e.Type)
	if e.Type != "link" {
		fmt.Fprintf(&b, " %04o", e.Mode)
	}
	fmt.Fprintf(&b, " %d:%d", e.UID, e.GID)
	switch e.Type {
	case "file":
		b.WriteString(" " + e.Content)
	case "link":
		b.WriteString(" -> " + e.Target)
	case "char", "block":
		b.WriteString(" " + e.Dev)
	}
	for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
		fmt.Fprintf(&b, " %s=%q", k, e.Xattrs[k])
	}
	if e.Mtime != "" {
		b.WriteString(" " + e.Mtime)
	}
	return b.String()
}

// describe shows every path. Of the names of one inode all but the first
// also say which that is.
func describe(files map[string]*Entry) map[string]string {
	out := make(map[string]string, len(files))
	first := map[*Entry]string{}
	for _, p := range slices.Sorted(maps.Keys(files)) {
		e := files[p]
		out[p] = e.String()
		if f, ok := first[e]; ok {
			out[p] += " = " + pathName(f)
		} else {
			first[e] = p
		}
	}
	return out
}

func parent(p string) string { return path.Dir(p) }

// apply puts a layer on top of the image's files, and its entries into
// Layers. A layer in which no two readers would see the same is refused.
func (img *Image) apply(layer []byte) error {
	listing := []string{}
	added := map[string]*Entry{}
	var whiteouts []string
	for tr := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := path.Clean("/" + h.Name)[1:]
		if name == "" {
			listing = append(listing, "./")
			continue
		}
		if added[name] != nil {
			return fmt.Errorf("%q is there twice", name)
		}
		if strings.HasPrefix(path.Base(name), ".wh.") {
			whiteouts = append(whiteouts, name)
			listing = append(listing, name)
			continue
		}
		e, err := readEntry(tr, h, added, img.files)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		added[name] = e
		listing = append(listing, listed(name, h))
	}
	slices.Sort(listing)
	img.Layers = append(img.Layers, listing)
	return img.merge(added, whiteouts)
}

// listed is how an entry stands in Image.Layers.
func listed(name string, h *tar.Header) string {
	switch h.Typeflag {
	case tar.TypeDir:
		return pathName(name) + "/"
	case tar.TypeLink:
		return pathName(name) + " = " + pathName(path.Clean("/" + h.Linkname)[1:])
	}
	return pathName(name)
}

// readEntry makes an entry of a tar header; a hard link is the entry that it
// links to, of this layer or of one below.
func readEntry(r io.Reader, h *tar.Header, added, below map[string]*Entry) (*Entry, error) {
	types := map[byte]string{
		tar.TypeReg: "file", tar.TypeDir: "dir", tar.TypeSymlink: "link", tar.TypeFifo: "fifo", tar.TypeChar: "char", tar.TypeBlock: "block",
	}
	if h.Typeflag == tar.TypeLink {
		target := path.Clean("/" + h.Linkname)[1:]
		if e := added[target]; e != nil {
			return e, nil
		}
		if e := below[target]; e != nil {
			return e, nil
		}
		return nil, fmt.Errorf("hard link to %q, which isn't there", target)
	}
	e := &Entry{Type: types[h.Typeflag], Mode: h.Mode, UID: h.Uid, GID: h.Gid, Mtime: stamp(h.ModTime)}
	switch e.Type {
	case "":
		return nil, fmt.Errorf("type %q", h.Typeflag)
	case "file":
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		e.Content = content(data)
	case "link":
		e.Target = h.Linkname
	case "char", "block":
		e.Dev = fmt.Sprintf("%d,%d", h.Devmajor, h.Devminor)
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = v
		}
	}
	return e, nil
}

// content shows a file's content.
func content(data []byte) string {
	if len(data) <= 256 && utf8.Valid(data) {
		return strconv.Quote(string(data))
	}
	return fmt.Sprintf("%d bytes %x", len(data), sha256.Sum256(data))[:len(strconv.Itoa(len(data)))+len(" bytes ")+16]
}

// pathName is a path as it stands in Image: quoted where JSON has no way to
// hold it.
func pathName(p string) string {
	if utf8.ValidString(p) {
		return p
	}
	return strconv.Quote(p)
}

// merge removes what whiteouts hide and what is replaced, and adds the rest.
func (img *Image) merge(added map[string]*Entry, whiteouts []string) error {
	for _, w := range whiteouts {
		dir, base := path.Split(w)
		if base == ".wh..wh..opq" {
			img.removeBelow(strings.TrimSuffix(dir, "/"))
			continue
		}
		gone := dir + strings.TrimPrefix(base, ".wh.")
		if img.files[gone] == nil {
			return fmt.Errorf("whiteout of %q, which isn't there", gone)
		}
		delete(img.files, gone)
		img.removeBelow(gone)
	}
	for _, name := range slices.Sorted(maps.Keys(added)) {
		e := added[name]
		if !img.isDir(parent(name)) {
			return fmt.Errorf("%q is in no directory", name)
		}
		if e.Type != "dir" {
			img.removeBelow(name)
		}
		img.files[name] = e
	}
	return nil
}

func (img *Image) removeBelow(dir string) {
	for p := range img.files {
		if strings.HasPrefix(p, dir+"/") || dir == "" {
			delete(img.files, p)
		}
	}
}
