<?php

namespace App\Models;

abstract class User
{
    const LIMIT = 3;
    protected string $name = '';
    private int $failures = 0;

    abstract public function role(): string;

    public function fail(): bool
    {
        $this->failures++;
        return $this->failures >= self::LIMIT;
    }

    public static function guest(): string
    {
        return 'guest';
    }
}
