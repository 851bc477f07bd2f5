// SPDX-License-Identifier: Apache-2.0

package remotecache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"builder/image"
)

// The digests that BuildKit gives to steps are those of JSON documents that
// say what a step does: here are as many of them as a Dockerfile can say that
// is common. The documents, and what is left out of them, are those of
// BuildKit's solver (solver/llbsolver/ops).

// ImageKey is the digest of the record for an image, by what its layers make;
// "" for an image without layers.
func ImageKey(chainID digest.Digest) digest.Digest {
	if chainID == "" {
		return ""
	}
	return output(digest.FromString("buildkit.source.v0:"+chainID.String()), 0)
}

// ContentKey is the digest of the record for files that have a digest.
func ContentKey(content digest.Digest) digest.Digest { return output(content, -1) }

// output is the digest of the record for one result of a step.
func output(step digest.Digest, number int) digest.Digest {
	return digest.FromString(fmt.Sprintf("%s@%d", step, number))
}

// PathSelector is the selector of the paths that are taken of an input.
func PathSelector(paths ...string) string {
	sorted := slices.Clone(paths)
	slices.Sort(sorted)
	slices.Reverse(sorted)
	return digest.FromString(strings.Join(sorted, "\x00")).String()
}

// Run is a process as BuildKit's documents have it.
type Run struct {
	Args     []string
	Env      []string
	Dir      string
	User     string
	Hostname string
	Hosts    []string // names of --add-host
	Ulimits  []RunUlimit
	NoNet    bool // --network=none
	Insecure bool // --security=insecure
	Mounts   []RunMount
	Platform image.Platform
}

// RunUlimit is a limit.
type RunUlimit struct {
	Name string
	Soft int64 `json:",omitempty"`
	Hard int64 `json:",omitempty"`
}

// RunMount is a cache or a file system in memory that a process sees.
type RunMount struct {
	Target  string
	Cache   bool
	ID      string // of a cache, namespace first
	Sharing string // of a cache: shared, private or locked
	Size    int64  // of a file system in memory
}

// RunKey is the digest of the record for a RUN.
func RunKey(r Run) (digest.Digest, error) {
	type host struct{ Host string }
	var doc struct {
		Type string
		Exec struct {
			Meta struct {
				Args                      []string    `json:"args,omitempty"`
				Env                       []string    `json:"env,omitempty"`
				Cwd                       string      `json:"cwd,omitempty"`
				User                      string      `json:"user,omitempty"`
				ExtraHosts                []host      `json:"extraHosts,omitempty"`
				Hostname                  string      `json:"hostname,omitempty"`
				Ulimit                    []RunUlimit `json:"ulimit,omitempty"`
				RemoveMountStubsRecursive bool        `json:"removeMountStubsRecursive,omitempty"`
			} `json:"meta"`
			Mounts   []mountDoc `json:"mounts,omitempty"`
			Network  int        `json:"network,omitempty"`
			Security int        `json:"security,omitempty"`
		}
		OS         string
		Arch       string
		Variant    string   `json:",omitempty"`
		OSVersion  string   `json:",omitempty"`
		OSFeatures []string `json:",omitempty"`
	}
	doc.Type = "buildkit.exec.v0"
	meta := &doc.Exec.Meta
	meta.Args, meta.Env, meta.Cwd, meta.User, meta.Hostname = r.Args, r.Env, r.Dir, r.User, r.Hostname
	meta.Ulimit, meta.RemoveMountStubsRecursive = r.Ulimits, true
	for _, name := range r.Hosts {
		meta.ExtraHosts = append(meta.ExtraHosts, host{name})
	}
	if r.NoNet {
		doc.Exec.Network = 2
	}
	if r.Insecure {
		doc.Exec.Security = 1
	}
	doc.Exec.Mounts = mountDocs(r.Mounts)
	doc.OS, doc.Arch, doc.Variant = r.Platform.OS, r.Platform.Architecture, r.Platform.Variant
	doc.OSVersion, doc.OSFeatures = r.Platform.OSVersion, r.Platform.OSFeatures
	return documentKey(doc)
}

// mountDoc is a mount in a document.
type mountDoc struct {
	Input    int       `json:"input,omitempty"`
	Dest     string    `json:"dest,omitempty"`
	Output   int       `json:"output,omitempty"`
	Type     int       `json:"mountType,omitempty"`
	TmpfsOpt *tmpfsDoc `json:"TmpfsOpt,omitempty"`
	CacheOpt *cacheDoc `json:"cacheOpt,omitempty"`
}

type tmpfsDoc struct {
	Size int64 `json:"size,omitempty"`
}

type cacheDoc struct {
	ID      string `json:"ID,omitempty"`
	Sharing int    `json:"sharing,omitempty"`
}

// Types of mounts.
const (
	cacheMount = 3
	tmpfsMount = 4
)

// mountDocs are the mounts of a process that has others than its root, which
// comes first.
func mountDocs(mounts []RunMount) []mountDoc {
	if len(mounts) == 0 {
		return nil
	}
	docs := []mountDoc{{Dest: "/"}}
	for _, m := range mounts {
		doc := mountDoc{Input: -1, Output: -1, Dest: m.Target, Type: tmpfsMount, TmpfsOpt: &tmpfsDoc{m.Size}}
		if m.Cache {
			doc.Type, doc.TmpfsOpt, doc.CacheOpt = cacheMount, nil, &cacheDoc{}
			// Which cache it is counts only for the one that is named by its target.
			if _, id, _ := strings.Cut(m.ID, "/"); id == m.Target && m.Sharing == "shared" {
				doc.CacheOpt.ID = m.ID
			}
		}
		docs = append(docs, doc)
	}
	slices.SortStableFunc(docs, func(a, b mountDoc) int { return strings.Compare(a.Dest, b.Dest) })
	return docs
}

// Owner is whose files a step makes: numbers, as it was written.
type Owner struct {
	UID uint32
	GID *uint32 // nil if it was not said
}

type ownerDoc struct {
	User  *userDoc `json:"user,omitempty"`
	Group *userDoc `json:"group,omitempty"`
}

type userDoc struct {
	User struct {
		ByID uint32 `json:"byId,omitempty"`
	}
}

func newOwnerDoc(o *Owner) *ownerDoc {
	if o == nil {
		return nil
	}
	doc := &ownerDoc{User: &userDoc{}}
	doc.User.User.ByID = o.UID
	if o.GID != nil {
		doc.Group = &userDoc{}
		doc.Group.User.ByID = *o.GID
	}
	return doc
}

// DirKey is the digest of the record for a WORKDIR. timestamp is of
// SOURCE_DATE_EPOCH in nanoseconds, -1 for none.
func DirKey(dir string, owner *Owner, timestamp int64) (digest.Digest, error) {
	action, err := json.Marshal(struct {
		Path        string    `json:"path,omitempty"`
		Mode        int32     `json:"mode,omitempty"`
		MakeParents bool      `json:"makeParents,omitempty"`
		Owner       *ownerDoc `json:"owner,omitempty"`
		Timestamp   int64     `json:"timestamp,omitempty"`
	}{dir, 0o755, true, newOwnerDoc(owner), timestamp})
	if err != nil {
		return "", err
	}
	return filesKey([][]byte{action}, nil)
}

// Copy is a COPY or ADD of local files as BuildKit's documents have it.
type Copy struct {
	Sources []string // absolute
	Dest    string   // absolute; a slash at the end counts
	Owner   *Owner
	Mode    int32  // -1 for none
	ModeStr string // symbolic
	Unpack  bool
	Scratch bool // there is nothing below
}

// CopyKey is the digest of the record for a COPY.
func CopyKey(c Copy) (digest.Digest, error) {
	var actions [][]byte
	var indexes [][]int
	first, second := 0, 1
	if c.Scratch {
		first, second = -1, 0
	}
	for i, src := range c.Sources {
		action, err := json.Marshal(struct {
			Src                string    `json:"src,omitempty"`
			Dest               string    `json:"dest,omitempty"`
			Owner              *ownerDoc `json:"owner,omitempty"`
			Mode               int32     `json:"mode,omitempty"`
			FollowSymlink      bool      `json:"followSymlink,omitempty"`
			DirCopyContents    bool      `json:"dirCopyContents,omitempty"`
			Unpack             bool      `json:"attemptUnpackDockerCompatibility,omitempty"`
			CreateDestPath     bool      `json:"createDestPath,omitempty"`
			AllowWildcard      bool      `json:"allowWildcard,omitempty"`
			AllowEmptyWildcard bool      `json:"allowEmptyWildcard,omitempty"`
			Timestamp          int64     `json:"timestamp,omitempty"`
			ModeStr            string    `json:"modeStr,omitempty"`
		}{path.Base(src), c.Dest, newOwnerDoc(c.Owner), c.Mode, true, true, c.Unpack, true, true, true, -1, c.ModeStr})
		if err != nil {
			return "", err
		}
		in, out := first, -1
		if i > 0 {
			in = second + i
		}
		if i == len(c.Sources)-1 {
			out = 0
		}
		actions, indexes = append(actions, action), append(indexes, []int{in, second, out})
	}
	return filesKey(actions, indexes)
}

// filesKey is the digest of the record for actions on files. The indexes say
// which of inputs and results each is about; they are left out where they are
// the usual ones.
func filesKey(actions [][]byte, indexes [][]int) (digest.Digest, error) {
	usual := indexes == nil || indexes[0][0] == 0
	for i, ix := range indexes {
		usual = usual && (i == 0 || ix[0] == len(indexes)+i-1) && ix[1] == 1
	}
	if usual {
		indexes = nil
	}
	return documentKey(struct {
		Type    string
		Actions [][]byte
		Indexes [][]int `json:"indexes,omitempty"`
	}{"buildkit.file.v0", actions, indexes})
}

func documentKey(doc any) (digest.Digest, error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return "", err
	}
	return output(digest.FromBytes(bytes.TrimSpace(data)), 0), nil
}
